"""Table of the systems whose recordings are compared: the beginning of `program`, else of `model`, in config.json, and
the system."""

from pathlib import Path

from fidelity import (
    dinosaur,
    dvae,
    isa,
    savi,
    savi_slotdiffusion,
    slot_attention,
    slotdiffusion,
    statm,
    steve,
    videosaur,
    vqvae,
)
from fidelity.cases import Case, CaseResult, System, beyond, checks, read_case
from torchslots.io.errors import UserError

SYSTEMS = {
    "savi": savi.SYSTEM,
    "statm": statm.SYSTEM,
    "isa": isa.SYSTEM,
    "object_discovery": slot_attention.SYSTEM,
    "set_prediction": slot_attention.SYSTEM,
    "VQVAE": vqvae.SYSTEM,
    "dVAE": dvae.SYSTEM,
    "SAViDiffusion": slotdiffusion.SYSTEM,
    "SAVi": savi_slotdiffusion.SYSTEM,
    "STEVE": steve.SYSTEM,
    "object-centric-learning-framework": dinosaur.SYSTEM,
    "ftdinosaur": dinosaur.SYSTEM,
    "videosaur": videosaur.SYSTEM,
    "slotcontrast": videosaur.SYSTEM,
}


def system_of(case: Case) -> System:
    """The system that config.json names.

    Raises:
        UserError: none here.
    """
    name = str(case.config.get("program") or case.config.get("model") or case.reference.get("model"))
    known = [prefix for prefix in SYSTEMS if name.startswith(prefix)]
    if known:
        return SYSTEMS[max(known, key=len)]
    raise UserError(f"{case.folder}: no way to compare `{name}` here. Known: {', '.join(SYSTEMS)}.")


def verify(folders: list[Path], *, float64: bool = False) -> list[CaseResult]:
    """Run our model on every folder's inputs and compare with its outputs.

    Args:
        float64: compute all of it in float64 too.
    """
    cases = [read_case(folder) for folder in folders]
    return [CaseResult(str(case.folder), checks(case, system_of(case), float64=float64)) for case in cases]


def failed(folder: Path) -> list[str]:
    """Names of what does not pass in a case."""
    case = read_case(folder)
    return beyond(case, system_of(case))
