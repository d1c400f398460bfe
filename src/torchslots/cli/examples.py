"""Examples at the end of each command's help; a test runs them as they are written."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("torchslots demo", "torchslots demo --system steve"),
    "train": (
        "torchslots train savi_small --root data --run-dir runs/1",
        "torchslots train slots_video --data folder --root my_videos --run-dir runs/mine",
        "torchslots train --resume runs/1",
    ),
    "train --replay": ("torchslots train --replay runs/1/nonfinite_batch_step_120.safetensors",),
    "evaluate": (
        "torchslots evaluate runs/1 --root data",
        "torchslots evaluate runs/1 --root data --num-videos 2 --write-films films",
    ),
    "predict": (
        "torchslots predict runs/mine my_videos/0.mp4 --out seen",
        "torchslots predict runs/1 film.mp4 --boxes boxes.json --out seen",
    ),
    "edit": ("torchslots edit runs/1 film.mp4 --boxes boxes.json --out changed --remove 2",),
    "app": ("torchslots app",),
    "compose": ("torchslots compose runs/1 --root data",),
    "concepts": ("torchslots concepts runs/1 --root data",),
    "slots": ("torchslots slots runs/1 --root data",),
    "export": ("torchslots export runs/1 --out exported",),
    "convert": ("torchslots convert checkpoints-0 --out savi-s",),
    "pretrained list": ("torchslots pretrained list",),
    "pretrained info": ("torchslots pretrained info slotcontrast_ytvis",),
    "pretrained get": ("torchslots pretrained get slotcontrast_ytvis",),
    "data list": ("torchslots data list movi",),
    "data download": ("torchslots data download movi_a --root data",),
    "data inspect": (
        "torchslots data inspect my_videos",
        "torchslots data inspect movi_a --root data",
    ),
    "data prepare": ("torchslots data prepare savi_small --root data --out cached",),
    "data generate": ("torchslots data generate --out data --train 2000",),
    "data generate-images": ("torchslots data generate-images --out data --kind tetrominoes",),
    "data prepare-waymo": ("torchslots data prepare-waymo --source waymo/training --out data",),
    "recipes": ("torchslots recipes movi_e", "torchslots recipes savi_small --yaml > my.yaml"),
    "bench": ("torchslots bench savi_small --batch 2",),
    "completion": ("torchslots completion bash > ~/.torchslots.bash",),
    "report": ("torchslots report runs/1 runs/2 --out side.html",),
}
"""Command -> lines for a shell."""


def examples(command: str) -> str:
    """The examples of a command, of a group of commands, or of a command with its first word; "" if there are none."""
    lines = EXAMPLES.get(command) or EXAMPLES.get(command.partition(" ")[0], ())
    lines = lines or [line for name, of in EXAMPLES.items() if name.startswith(f"{command} ") for line in of]
    return "\n".join(["", "Examples:", *(f"  {line}" for line in lines)]) if lines else ""
