# %% [markdown]
# # Reading results
#
# What training, evaluation and prediction write, and how to read it: the log, the figures, tracks and slots as tables.

# %%
import csv
import json
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import torchslots
from torchslots.io.draw import colorize
from torchslots.io.run_log import read_log
from torchslots.io.video import write_video
from torchslots.sim.generate_videos import generate

WORK = Path("runs/reading_results")
NUM_VIDEOS = 60
STEPS = 1500

# %%
generate(WORK / "data", train=NUM_VIDEOS, validation=4, num_frames=12, workers=1)
changes = {"optim.num_steps": STEPS, "optim.warmup_steps": STEPS // 10, "evaluation.num_frames": 12}
changes |= {"train.log_every": max(STEPS // 50, 1), "train.eval_every": max(STEPS // 5, 1)}
torchslots.train("savi_demo", WORK / "data", WORK / "run", num_plots=0, **changes)

# %% [markdown]
# The log of a run: one record for each logged step, `train/...` and `eval/...`. TensorBoard shows the same.

# %%
records = read_log(WORK / "run")
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for axes, key, label in ((left, "train/loss", "training loss"), (right, "eval/fg_ari", "FG-ARI")):
    points = [(record["step"], record[key]) for record in records if key in record]
    axes.plot(*zip(*points), marker=".")
    axes.set(xlabel="step", title=label)
fig.savefig(WORK / "curves.png")

# %% [markdown]
# Evaluation: figures with their definitions, and each figure frame by frame.

# %%
report = torchslots.evaluate(WORK / "run", WORK / "data", out=WORK / "eval", num_workers=0, num_plots=1)
for name, value in report.metrics.items():
    print(f"{name:>10} {value:8.3f}  {report.definitions[name]}")
written = json.loads((WORK / "eval" / "eval.json").read_text())
print("FG-ARI of each frame:", [round(value, 2) for value in written["curves"]["fg_ari"]])

# %% [markdown]
# A prediction: tracks.json, and with `format` tables that pandas or a spreadsheet reads.

# %%
item = torchslots.open_dataset("sim_a", WORK / "data", split="validation", frames=12, resolution=64)[0]
frames = (item["video"].movedim(1, -1) * 255).round().byte().numpy()
write_video(WORK / "film.mp4", frames, 12)
first = item["boxes"][0]
(WORK / "boxes.json").write_text(json.dumps(first[first.any(-1)].tolist()))
(folder,) = torchslots.predict(
    WORK / "run",
    WORK / "film.mp4",
    WORK / "predicted",
    boxes=WORK / "boxes.json",
    format=("csv", "coco", "mot"),
)
print(sorted(path.name for path in folder.iterdir()))

# %%
with (folder / "tracks.csv").open() as file:
    rows = list(csv.DictReader(file))
print(rows[1])
print("frames in which each slot is seen:", dict(Counter(row["slot"] for row in rows)))

# %% [markdown]
# Where did each object go? The middle of its box in each frame, over the first frame.

# %%
height, width = frames.shape[1:3]
fig, axes = plt.subplots(figsize=(5, 5), layout="constrained")
axes.imshow(frames[0])
for slot in sorted({row["slot"] for row in rows} - {"0"}, key=int):
    own = [row for row in rows if row["slot"] == slot]
    x = [(float(row["xmin"]) + float(row["xmax"])) / 2 * width for row in own]
    y = [(float(row["ymin"]) + float(row["ymax"])) / 2 * height for row in own]
    axes.plot(x, y, marker=".", color=colorize(np.array(int(slot))) / 255, label=f"slot {slot}")
axes.legend(fontsize="small")
fig.savefig(WORK / "paths.png")

# %% [markdown]
# Slots: one vector for each object and frame. Slots of one object stay alike over time.

# %%
slots = np.load(folder / "slots.npz")["slots"]
unit = slots / np.linalg.norm(slots, axis=-1, keepdims=True)
similarity = np.einsum("kd,jd->kj", unit[0], unit[-1])
print("cosine of slots in the first and the last frame, own:", similarity.diagonal().mean().round(3))
