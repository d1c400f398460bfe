"""Checkpoints of the torch originals without a file of weights: names are stored, and weights computed from them.

A case under tests/golden holds, in place of `model.pth` (0.6 to 5 MB each),

- `state_dict.json`: {name: [shape, dtype]} in the order of the original's state dict, and
- `buffers.npz` with the tensors that do not follow from their names: grids, schedules, masks, running statistics.

In a test:

    case = with_model(golden / "vqvae_mini", tmp_path)      # a copy of the folder, with its model.pth
    checks(read_case(case))

`state_dict(folder)` gives the tensors alone. To copy a recording with its `model.pth` to tests/golden (every parameter
is compared with the formula; those that differ become buffers, and their names are printed):

    PYTHONPATH=tests python -m fidelity.hash_init RECORDED/steve_mini tests/golden/steve_mini

The formula itself is `fidelity.hash_weights`.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fidelity.hash_weights import gain_of, hash_weights

NAMES, BUFFERS, MODEL = "state_dict.json", "buffers.npz", "model.pth"


def state_dict(folder: Path) -> dict[str, Tensor]:
    """The original's state dict of a case, in its order."""
    config = json.loads((folder / "config.json").read_text())
    names = json.loads((folder / NAMES).read_text())
    buffers = dict(np.load(folder / BUFFERS)) if (folder / BUFFERS).is_file() else {}
    shapes = {name: shape for name, (shape, _) in names.items() if name not in buffers}
    arrays = hash_weights(shapes, config["salt"], gain_of(config["config"]["model"])) | buffers
    return {name: torch.from_numpy(np.array(arrays[name])) for name in names}


def with_model(folder: Path, scratch: Path) -> Path:
    """A copy of the case below `scratch` that has the original's `model.pth`."""
    copied = Path(shutil.copytree(folder, scratch / folder.name))
    torch.save(state_dict(folder), copied / MODEL)
    return copied


def take_over(recorded: Path, folder: Path) -> None:
    """Copy a recorded case without its weights."""
    tensors = torch.load(recorded / MODEL, weights_only=True)
    names = {
        name: [list(value.shape), str(value.dtype).removeprefix("torch.")] for name, value in tensors.items()
    }
    shutil.copytree(
        recorded,
        folder,
        ignore=shutil.ignore_patterns(MODEL),
        dirs_exist_ok=True,
        copy_function=shutil.copyfile,
    )
    folder.chmod(0o755)
    (folder / NAMES).write_text(json.dumps(names, separators=(",", ":")) + "\n")
    hashed = {name: value.numpy() for name, value in state_dict(folder).items()}
    other = {name: value.numpy() for name, value in tensors.items() if not _same(hashed[name], value.numpy())}
    if other:
        np.savez_compressed(folder / BUFFERS, **other)
    print(f"{folder}: {len(names)} tensors, of which not by name: {', '.join(other) or 'none'}")


def _same(hashed: np.ndarray, recorded: np.ndarray) -> bool:
    return hashed.dtype == recorded.dtype and np.array_equal(hashed, recorded)


if __name__ == "__main__":
    take_over(Path(sys.argv[1]), Path(sys.argv[2]))
