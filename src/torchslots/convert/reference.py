"""An original's own configuration as JSON: read, and known by the system that it is of."""

import json
from pathlib import Path
from typing import Any

from torchslots.io.errors import UserError

_NAMED = {
    "object_discovery": "Slot Attention",
    "set_prediction": "Slot Attention",
    "VQVAE": "VQ-VAE",
    "dVAE": "STEVE's discrete VAE",
    "STEVE": "STEVE",
    "SAVi": "SAVi of SlotDiffusion's code",
    "SAViDiffusion": "SlotDiffusion",
}
"""Systems by the names that their programs give to `model`."""


def read_reference(file: Path, checkpoint: Path, system: str) -> dict[str, Any]:
    """The configuration in a file, which may stand under `config`.

    Args:
        checkpoint: what is to be converted with it.
        system: title of the checkpoint's system.

    Raises:
        UserError: no JSON, no fields, or the configuration of another system.
    """
    values = _parse(file)
    inner = values["config"] if isinstance(values.get("config"), dict) else values
    found = _system(values) or _system(inner)
    if found not in (None, system):
        raise UserError(
            f"{checkpoint} is a checkpoint of {system}, and {file} configures {found}. Give the configuration that it "
            "was trained with, or leave --config out."
        )
    return inner


def _parse(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not an original configuration as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{file} is not an original configuration: a {type(values).__name__} in place of fields."
        )
    return values


def _system(values: dict[str, Any]) -> str | None:
    """Title of the system that is configured; None where that cannot be told."""
    model = values.get("model")
    if isinstance(model, str):
        return _NAMED.get(model)
    if not isinstance(model, dict) or "module" not in model:
        return None
    if str(model["module"]).startswith("invariant_slot_attention."):
        return "Invariant Slot Attention"
    predictor = json.dumps(model.get("predictor"))
    return "STATM" if "TimeSpaceTransformerBlock" in predictor or "statm." in predictor else "SAVi"
