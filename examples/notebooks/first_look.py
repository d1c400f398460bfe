# %% [markdown]
# # First look
#
# Generate a few films, train a small model on them, and see which objects it finds. Minutes on two cores.
# Open this file in Jupyter (with jupytext) or in an editor that knows `# %%` cells.

# %%
from pathlib import Path

import torchslots
from torchslots.sim.generate_videos import generate

WORK = Path("runs/first_look")
NUM_VIDEOS = 60
STEPS = 1500

# %% [markdown]
# Films of falling objects, with the masks and boxes that only a simulator knows.

# %%
generate(WORK / "data", train=NUM_VIDEOS, validation=4, num_frames=12, workers=1)
dataset = torchslots.open_dataset("sim_a", WORK / "data", split="validation", frames=12, resolution=64)
item = dataset[0]
print({key: tuple(value.shape) for key, value in item.items() if key != "name"})

# %% [markdown]
# SAVi starts from boxes of the first frame and follows the objects. `train` given again resumes.

# %%
changes = {"optim.num_steps": STEPS, "optim.warmup_steps": STEPS // 10, "evaluation.num_frames": 12}
result = torchslots.train("savi_demo", WORK / "data", WORK / "run", num_plots=0, **changes)
print(result.step, "steps", result.metrics)

# %% [markdown]
# A film that it has not seen: boxes of the first frame in, a slot and a mask for each object and frame out.

# %%
model = torchslots.load_model(WORK / "run")
frames = (item["video"].movedim(1, -1) * 255).round().byte().numpy()
boxes = item["boxes"][0]
found = torchslots.predict_frames(model, frames, boxes=boxes[boxes.any(-1)].numpy())
found.show()

# %% [markdown]
# FG-ARI says how well pixels of one object share a slot: 1 is perfect, about 0 is chance.

# %%
true = item["segmentations"].numpy()
fg_ari = torchslots.metrics.fg_ari(true, found.segmentation)
print(f"FG-ARI of this film: {100 * fg_ari:.1f} per cent")
