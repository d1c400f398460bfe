"""Every command of README, docs and help is run as it is written there, on small models and data of the same names.

The words of a command are not touched. What is small: recipes of these names in the catalog, the data below `data`, and
the trained models that the texts call RUN, MODEL, runs/1 and so on.
"""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.own_films import moving
from data.movi_files import copy_movi
from help_texts import SCREENS, help_text
from recipes.shrunk import shrunk
from test_docs import accepted
from tiny_models import TINY
from torchslots.cli import COMMANDS, main
from torchslots.cli.examples import EXAMPLES
from torchslots.data.batch import collate
from torchslots.data.catalog import open_dataset
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog, isa
from torchslots.recipes.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
    to_json,
)
from torchslots.recipes.savi import CnnConfig, DecoderConfig
from torchslots.training.resume import TrainOptions, start_of, write_start
from torchslots.training.step import TrainStep
from torchslots.training.stops import explained
from training.two_steps import SLOTDIFFUSION, VQVAE

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("*.md")),
]
_OUTSIDE = "the package is not installed; tests/examples/test_outside_package.py runs it"
NOT_RUN = {
    "torchslots pretrained get slotcontrast_ytvis": "downloads",
    "torchslots pretrained get ftdinosaur_base_518 --file PATH": "needs the published file",
    "torchslots predict slotcontrast_ytvis my_video.mp4 --out seen": "downloads",
    "torchslots convert checkpoints-0 --out savi-s": "needs published sizes; tests/convert reads small checkpoints",
    "torchslots data download movi_a --root data": "downloads",
    "torchslots data generate --out data --train 2000": "renders 2,000 videos; tests/sim renders few",
    "torchslots data generate-images --out data --kind tetrominoes": "renders thousands of images; tests/sim few",
    "torchslots demo": "takes minutes; tests/cli/demo runs it small",
    "torchslots demo --system slotdiffusion": "takes minutes; tests/cli/demo runs it small",
    "torchslots demo --system steve": "takes minutes; tests/cli/demo runs it small",
    "torchslots data prepare movi_c --features slotcontrast_movi_c --root data --out stored": (
        "needs the backbone's public weights; tests/cli/test_prepare_features.py runs it small"
    ),
    "torchslots train slotcontrast_movi_c --data prepared --root stored --run-dir RUN": "follows the command before",
    "torchslots evaluate RUN --root data --recon --weights vgg16=vgg16-397923af.pth lpips_vgg=vgg.pth "
    "i3d=i3d_pretrained_400.pt": "needs public weights of these networks",
    'make fidelity CASES="DIR..."': "tests/fidelity runs it",
    "torchrun --nproc-per-node 2 -m torchslots train savi_demo --root data --run-dir runs/2": "see the last test here",
    'torchslots data generate --out "$DATA" --train 9750 --validation 250 --shard "$SLURM_ARRAY_TASK_ID/16" '
    "--workers 8": "renders 10,000 videos; tests/sim renders few",
    'torchslots data prepare savi_small --root "$DATA" --out "$DATA/prepared" --num-workers 32': (
        "starts 32 processes; docs/data.md has it with fewer"
    ),
    "torchslots train slots_video --root my_videos --run-dir runs/try --model.slots.resolution 32 32 "
    "--data.resolution 32 --optim.num-steps 6000 --optim.warmup-steps 300 --train.short-steps 2000": "6,000 steps",
    "torchslots train slots_sim --data folder --root my_videos --run-dir runs/tuned --model.targets video "
    "--model.target-weights 20 --init slots_sim": "9,000 steps; tests/cli/test_own_videos.py does one",
    "torchslots train --replay RUN/nonfinite_batch_step_N.safetensors": "tests/training/test_replay.py runs it",
    "torchslots app": "serves until it is ended; tests/cli/app runs it",
    "torchslots data prepare-waymo --source waymo/training --out data": (
        "needs Waymo's package and frames; tests/data/sets/test_waymo.py runs it on a stand-in for the package"
    ),
    "torchslots recipes drift": _OUTSIDE,
    "torchslots data list squares": _OUTSIDE,
    "torchslots data inspect squares --root data/squares": _OUTSIDE,
    "torchslots train drift_squares --root data/squares --run-dir runs/drift": _OUTSIDE,
    "torchslots evaluate runs/drift --root data/squares": _OUTSIDE,
}
"""Commands that are not run here, and why."""
_COMMAND = re.compile(r"(?:torchslots|torchrun|make|(?:\.venv/bin/)?pip) \S")
_OPEN = re.compile(
    r"\.\.\.|\b(?:COMMAND|NAME|DIR|RECIPE|FILE)\b|--device cuda|"
    r"^torchslots (?:[\w-]+|data prepare|pretrained get --file \S+)$"
)
"""Forms of commands that leave words to the reader, or ask for a GPU."""
_WHOLE = {"torchslots demo", "torchslots recipes"}
"""Commands of one word that can be run."""


def commands(text: str) -> list[str]:
    """The commands of code blocks and in backticks, without what follows them as a comment or in a second column."""
    fence = re.compile(r"^```\w*\n(.*?)^```", re.S | re.M)
    blocks = [re.sub(r"\s*\\\n\s*", " ", block) for block in fence.findall(text)]
    lines = [line.removeprefix("srun ") for block in blocks for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", fence.sub("", text))]
    found = [re.split(r"\s{2,}|\s+(?:#|&&)", line.strip())[0] for line in [*lines, *spans]]
    found = [line for line in found if _COMMAND.match(line)]
    return list(
        dict.fromkeys(line for line in found if line in {*_WHOLE, *NOT_RUN} or not _OPEN.search(line))
    )


SHOWN = [line for lines in EXAMPLES.values() for line in lines]
"""The examples of the helps."""
WRITTEN = list(dict.fromkeys([*(line for page in PAGES for line in commands(page.read_text())), *SHOWN]))
RUN = [line for line in WRITTEN if line not in NOT_RUN and line.startswith("torchslots")]
OTHERS = [line for line in WRITTEN if line not in NOT_RUN and line not in RUN]
_DATA = DataConfig(
    max_instances=11, resolution=32, num_frames=2, keys=("video", "segmentations", "boxes", "flow")
)
_SAVI = replace(
    TINY,
    resolution=(32, 32),
    decoder=DecoderConfig((8, 8), (8, 6), (2, 2)),
    targets=("flow", "video"),
    num_slots=12,
)


def small(name: str, model: ModelConfig, **data: object) -> Recipe:
    """A recipe of two steps on MOVi-A."""
    return Recipe(
        name,
        model,
        replace(_DATA, **data),
        OptimConfig(num_steps=2, warmup_steps=0),
        TrainConfig(batch_size=2, num_workers=0, eval_every=2, checkpoint_every=2),
        EvalConfig(split="train", num_frames=12, slice_size=4, num_videos=2),
    )


_SLOTS = replace(_SAVI, num_slots=6, conditioning="gaussian")
_FRAMES = {"resolution": 16, "keys": ("video", "segmentations")}
_OWN = shrunk(catalog.recipe("slots_video").model)
RECIPES = {
    "savi_small": small("savi_small", _SAVI),
    "slots_video": small("slots_video", _OWN, dataset="folder", keys=("video",), windows="back_and_forth"),
    "vqvae_movi_e": small("vqvae_movi_e", VQVAE, **_FRAMES),
    "slotdiffusion_movi_e": small("slotdiffusion_movi_e", SLOTDIFFUSION, **_FRAMES),
}
_ISA = isa.IsaConfig((16, 16), CnnConfig((6,), (1,)), "rotation", num_slots=6, slot_size=8,
                     decoder=isa.PixelDecoderConfig((16, 16), (8, 8)))  # fmt: skip


def saved(recipe: Recipe, run: Path, root: Path) -> Path:
    """A run folder whose model is not trained."""
    torch.manual_seed(0)
    save_pretrained(catalog.build(recipe.model), recipe.model, run / "model")
    (run / "recipe.json").write_text(to_json(recipe))
    write_start(run, start_of(root, TrainOptions()))
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the texts name: data, a film and images with boxes, models."""
    place = tmp_path_factory.mktemp("written")
    copy_movi("a", place / "data")
    noise = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), np.uint8)
    for name in ("film.mp4", "clip.mp4", "my_video.mp4"):
        video.write_video(place / name, noise, 12)
    for name in ("image.png", "one.png", "other.png"):
        video.write_png(place / name, noise[0])
    for name in range(12):
        video.write_video(place / "my_videos" / f"{name}.mp4", moving(4, 32, 32), 12)
    (place / "boxes.json").write_text(json.dumps([[0.1, 0.1, 0.5, 0.5], [0.4, 0.5, 0.9, 0.9]]))
    for name, recipe in {
        "runs/1": small("savi_small", _SAVI),
        "runs/savi_small/0": small("savi_small", _SAVI),
        "runs/clevr6": small("slot_attention", _SLOTS),
        "runs/vqvae": RECIPES["vqvae_movi_e"],
        "of_slots": small("savi_small", _SLOTS),
        "of_poses": small("isa", _ISA, resolution=16),
        "of_diffusion": RECIPES["slotdiffusion_movi_e"],
    }.items():
        saved(recipe, place / name, place / "data")
    own = replace(RECIPES["slots_video"], evaluation=EvalConfig(split="validation", num_frames=4))
    saved(own, place / "runs/mine", place / "my_videos")
    (place / "runs/savi_small/1").symlink_to(place / "runs/1", target_is_directory=True)
    return place


def model_for(line: str) -> str:
    """The model that the text calls RUN or MODEL: one that can do what is shown."""
    if "--sampling" in line:
        return "of_diffusion"
    return "of_poses" if line.startswith("torchslots edit") else "of_slots"


def test_what_is_not_run_is_written_somewhere() -> None:
    assert set(NOT_RUN) <= set(WRITTEN)


def in_help(screen: tuple[str, ...]) -> list[str]:
    """The commands in the text of a help: its examples, and what is in backticks or stands free."""
    above, _, below = help_text(screen).partition("\nExamples:\n")
    above = re.sub(r"^usage: .*\n(?: +torchslots .*\n)*", "", above, flags=re.I)
    text = " ".join(line.strip("│ ") for line in above.splitlines())
    free = re.findall(
        r"(?<!`)\b(?:torchslots|torchrun|make|pip) [a-z-]+ [^.;:]+", re.sub("`[^`]*`", "", text)
    )
    return [*commands(text), *(line.strip() for line in below.splitlines() if line.strip()), *free]


@pytest.mark.parametrize("screen", SCREENS, ids=" ".join)
def test_commands_of_a_help_are_run(screen: tuple[str, ...]) -> None:
    """Those that leave words to the reader are forms, not commands."""
    found = in_help(screen)
    assert set(found) <= set(WRITTEN), "write it among the examples of the command, where it is run"
    assert found or screen == ()
    first = [name for name in screen if not name.startswith("-")][:1]
    assert all(
        line.split()[1:2] == first for line in help_text(screen).partition("Examples:\n")[2].splitlines()
    )


def test_every_example_is_shown() -> None:
    assert {line for screen in SCREENS for line in in_help(screen)} >= set(SHOWN)


def test_commands_are_found() -> None:
    text = "`torchslots data list` and `make it`\n```\ntorchslots recipes x    all of them\ntorchslots a b  # c\n```\n"
    assert commands(text) == ["torchslots recipes x", "torchslots a b", "torchslots data list", "make it"]
    assert len(RUN) > 20


def is_slow(line: str) -> bool:
    """Whether a command takes more than a second or two."""
    return (
        bool(re.search(r"--(?!root|run-dir)|slotdiffusion|compose|concepts", line)) and "predict" not in line
    )


ADVICE = re.compile(r"\b(?:Next|Or|Then): (torchslots .+)")
"""A command that another one prints."""
ADVISING = [
    line
    for line in RUN
    if line.startswith(("torchslots train ", "torchslots data inspect my_videos")) and "--replay" not in line
]


def run(line: str, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints in the folder of what the texts name."""
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(catalog.RECIPES, name, lambda recipe=recipe: recipe)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DATA", "data")
    monkeypatch.setenv("HOME", str(home))
    words, out = as_shell(line)
    prepare(words, line, folder)
    with redirect_stdout(io.StringIO()) as printed:
        assert main(words[1:]) == 0
    if out is not None:
        assert len(printed.getvalue()) > 100
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(printed.getvalue())
    return printed.getvalue()


def prepare(words: list[str], line: str, folder: Path) -> None:
    """Make what a command is about, where it is not in the folder."""
    for name in ("RUN", "MODEL"):
        if name in words:
            shutil.copytree(folder / model_for(line), folder / name, dirs_exist_ok=True)
    if "my.yaml" in words:
        base = "slots_video" if "my_videos" in words else "savi_small"
        (folder / "my.yaml").write_text(f"base: {base}\noptim:\n  num_steps: 1\n")
    if words[1] == "train":  # from its start
        for flag, place in zip(words, words[1:]):
            if flag == "--run-dir":
                shutil.rmtree(folder / place, ignore_errors=True)
            if flag == "--replay":
                spoil(folder / place)
    if words[1] == "export" and "torch-export" not in words:
        pytest.importorskip("onnxscript")
    if words[1] == "report":
        for place in words[2:]:
            if place.startswith("runs/") and not (folder / place).exists():
                shutil.copytree(folder / "runs" / "1", folder / place)
            if (folder / place).is_dir() and not (folder / place / "eval.json").is_file():
                assert (
                    main(["evaluate", place, "--root", "data", "--num-videos", "1", "--num-plots", "0"]) == 0
                )


def spoil(batch: Path) -> None:
    """A step of the run `batch` is in, stopped and saved for want of finite values, as its file's number says."""
    recipe = catalog.read_recipe(batch.parent / "recipe.json")
    model, step = catalog.build(recipe.model), int(batch.stem.rpartition("_")[2])
    clips = open_dataset("movi_a", batch.parents[2] / "data", "train", recipe.data, True)
    first = collate([clips.sample(0, np.random.default_rng(0))])
    first["video"][0, 0, 0] = float("nan")
    stepper = TrainStep(model, recipe.optim, recipe.train, "cpu")
    with pytest.raises(UserError, match="--replay"), explained(batch.parent, recipe, 0, model):
        stepper(step - 1, first)


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow if is_slow(line) else ()) for line in RUN]
)
def test_it_runs(line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run(line, folder, tmp_path, monkeypatch)
    assert bool(ADVICE.search(printed)) == (line in ADVISING)
    for name in ("RUN", "MODEL", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("line", ADVISING)
def test_what_a_command_advises_runs(
    line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised = ADVICE.findall(run(line, folder, tmp_path, monkeypatch))
    assert advised
    for following in advised:
        run(following, folder, tmp_path, monkeypatch)


def as_shell(line: str) -> tuple[list[str], Path | None]:
    """Words of a command with variables and patterns of files replaced, and the file to which it is written."""
    words, arrow, file = os.path.expandvars(line).partition(" > ")
    found = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in shlex.split(words)]
    return [word for several in found for word in several], Path(file).expanduser() if arrow else None


@pytest.mark.parametrize("line", OTHERS)
def test_targets_and_extras_exist(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
        assert next(word for word in words[1:] if "=" not in word) in targets
        return
    assert words[0].endswith("pip") and words[1] == "install"
    extras = re.search(r"(?:torchslots|\.)\[(.*)\]", words[-1])
    stated = (REPOSITORY / "pyproject.toml").read_text()
    for name in extras.group(1).split(",") if extras else ():
        assert re.search(rf"^{name} = \[", stated, re.M), name
    if words[-1].startswith("./"):
        assert (REPOSITORY / words[-1] / "pyproject.toml").is_file()


def flags_of(words: list[str]) -> set[str]:
    """Flags in the helps of the screens that a command in a message begins with."""
    screens = [screen for screen in SCREENS if screen and list(screen) == words[: len(screen)]]
    features = [screen for screen in SCREENS if "--features" in screen and "--features" in words]
    recipes = [("train", "savi_small")] if words[0] == "train" else []
    return set[str]().union(*map(accepted, [*screens, *features, *recipes]))


def test_messages_name_commands_and_flags_that_exist() -> None:
    found = [
        (words, file.name)
        for file in (REPOSITORY / "src").rglob("*.py")
        for span in re.findall(r"`(torchslots [^`]*)`", file.read_text())
        for words in [" ".join(span.split()).split()[1:]]
        if re.fullmatch(r"[a-z][\w-]*", words[0])
    ]
    assert len(found) > 60
    assert [pair for pair in found if pair[0][0] not in COMMANDS] == []
    flags = [(words, word) for words, _ in found for word in words if word.startswith("--")]
    assert len(flags) > 20
    assert [words for words, flag in flags if flag not in flags_of(words)] == []


SMALL = (
    "--data movi_a --model.resolution 16 16 --model.decoder.grid 4 4 --data.resolution 16 --data.crop None "
    "--optim.num-steps 1 --train.batch-size 4 --train.num-workers 0 --evaluation.split train --evaluation.num-frames 2 "
    "--num-plots 0"
).split()
"""Behind the words as they are written, since another program starts the processes."""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_torchrun_starts_it(processes: int, folder: Path) -> None:
    (line,) = [line for line in WRITTEN if line.startswith("torchrun")]
    words = shlex.split(line.replace("--nproc-per-node 2", f"--nproc-per-node {processes}"))
    shutil.rmtree(folder / "runs" / "2", ignore_errors=True)
    program = [sys.executable, "-m", "torch.distributed.run", *words[1:], *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("1 step done. Next: torchslots evaluate runs/2 --root data") == 1
    assert ended.stderr.count("Running on cpu.") == 1
    assert (folder / "runs" / "2" / "model" / "model.safetensors").is_file()
