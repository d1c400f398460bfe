"""What a run on several processes says is not as on one."""

from dataclasses import replace

from recipes.shrunk import shrunk
from torchslots.recipes import catalog
from torchslots.recipes.config import TrainConfig
from torchslots.training.parts import differences, samples_noise
from torchslots.training.step import TrainStep

_NOISE = "Dropout and the noise of codes are sampled in each of "
_CONTRAST = "The contrast compares slots of clips within "


def said(name: str, processes: int, accumulation: int, own_noise: bool) -> list[str]:
    return differences(catalog.build(shrunk(catalog.recipe(name).model)), processes, accumulation, own_noise)


def test_noise_of_gpus_and_compiled_steps_is_said_where_a_model_has_it() -> None:
    noisy = {"steve_movi_e", "steve_demo", "dvae_movi_e", "slotdiffusion_movi_e", "steve_joint_movi_d"}
    for name in (*noisy, "savi_small", "slots_video", "vqvae_movi_e", "videosaur_ytvis"):
        assert samples_noise(catalog.build(shrunk(catalog.recipe(name).model))) == (name in noisy), name
    (line,) = said("steve_movi_e", 2, 1, True)
    assert line.startswith(f"{_NOISE}2 processes by itself")
    assert (
        said("steve_movi_e", 2, 1, False)
        == said("steve_movi_e", 1, 1, True)
        == said("savi_small", 4, 1, True)
        == []
    )


def test_a_contrast_between_clips_is_said_on_every_device() -> None:
    (line,) = said("slotcontrast_ytvis", 2, 4, False)
    assert line.startswith(f"{_CONTRAST}each of 2 processes and 4 accumulation steps, not of the whole batch")
    assert said("slotcontrast_ytvis", 1, 1, False) == said("videosaur_ytvis", 2, 1, False) == []


def test_a_step_knows_its_parts() -> None:
    recipe = catalog.recipe("slotcontrast_demo")
    model = catalog.build(shrunk(recipe.model))
    train = replace(TrainConfig(), batch_size=4, compile=False)
    assert TrainStep(model, recipe.optim, train, "cpu").differences() == []
    (line,) = TrainStep(model, recipe.optim, replace(train, accumulation=2), "cpu").differences()
    assert line.startswith(f"{_CONTRAST}each of 2 accumulation steps")
