"""docs/metrics.md has the definitions of the code, word for word. `python tests/test_metrics_page.py` writes them."""

from pathlib import Path

from torchslots.evaluation import rollout
from torchslots.metrics import reconstruction, scores, set_prediction
from torchslots.metrics.protocol import CLASSES

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
MARK = "<!-- definitions: tests/test_metrics_page.py -->\n"
J_AND_F = {f"j_and_f, {form}": text for form, text in scores.BOUNDARIES.items()}
SECTIONS = {
    "Objects": ("Of videos, and of images as videos of one frame.", scores.DEFINITIONS, scores.LABELS),
    "Objects, where a protocol asks for them": (
        "Reported with some `--protocol`.",
        scores.EXTRA | CLASSES | J_AND_F,
        scores.EXTRA_LABELS | scores.CLASS_LABELS | dict.fromkeys(J_AND_F, "J&F"),
    ),
    "Reconstructions": (
        "Reported with `--recon`; the last four need files of public networks, see "
        "[evaluation](evaluation.md#reconstructions).",
        reconstruction.DEFINITIONS,
        reconstruction.LABELS,
    ),
    "Properties of objects": (
        "Reported for models that predict sets.",
        set_prediction.DEFINITIONS,
        set_prediction.LABELS,
    ),
    "Predicted frames": (
        "Reported with `--observe`, in `horizon.json`. `psnr_*` stands for each target that is reconstructed; `copy_` "
        "for the baseline that repeats the last observed frame.",
        rollout.DEFINITIONS,
        {},
    ),
}


def written() -> str:
    """What stands behind the mark."""
    parts = []
    for title, (about, definitions, labels) in SECTIONS.items():
        rows = [f"| `{name}` | {labels.get(name, '')} | {text} |" for name, text in definitions.items()]
        parts.append(
            "\n".join(
                [f"\n## {title}\n\n{about}\n", "| key | name | definition |", "|---|---|---|", *rows, ""]
            )
        )
    return "".join(parts)


def test_definitions_are_those_of_the_code() -> None:
    assert PAGE.read_text().split(MARK)[1] == written(), "run: python tests/test_metrics_page.py"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().split(MARK)[0] + MARK + written())
