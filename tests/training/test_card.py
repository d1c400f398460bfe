"""What the card of a trained model says."""

from pathlib import Path

from torchslots.models.weights import add_to_card
from torchslots.recipes import catalog
from torchslots.training.card import sections_of
from torchslots.training.checkpoint import RunState


def test_data_command_figures_protocol_and_licence() -> None:
    state = RunState(step=500, metrics={"mse": 3.25, "fg_ari": 0.5, "psnr": None}, evaluated_step=400)
    found = sections_of(catalog.recipe("savi_small"), state)
    assert list(found) == ["Data", "Training", "Figures", "Licence"]
    assert "`movi_a`: MOVi-A" in found["Data"] and "clips of 6 frames of 64 pixels" in found["Data"]
    assert "seed 42, 500 of 100000 steps" in found["Training"]
    assert "torchslots train savi_small --data movi_a --root DATA --run-dir RUN" in found["Training"]
    assert "step 400" in found["Figures"] and "Protocol `savi`" in found["Figures"]
    rows = [line for line in found["Figures"].splitlines() if line.startswith("| ")]
    assert rows[1:] == ["| FG-ARI | 50.0 % |", "| MSE (sum over a frame) | 3.25 |"], "the main figure first"
    assert "Apache-2.0" in found["Licence"] and "generator: Apache-2.0" in found["Licence"]
    assert "Figures" not in sections_of(catalog.recipe("slots_video"), RunState())


def test_a_card_by_another_hand_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    add_to_card(tmp_path, {"Data": "none"})
    assert (tmp_path / "README.md").read_text() == "mine"
