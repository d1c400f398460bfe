"""How a decoder samples frames, chosen after training: one set of options for all decoders."""

from collections.abc import Collection
from dataclasses import dataclass, fields

from torchslots.io.errors import UserError
from torchslots.io.values import convert_fields
from torchslots.models.diffusion.samplers import SamplerName


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling options of generative decoders; None: as the model was built.

    Raises:
        UserError: a value that is not positive, or steps for ddpm.
    """

    sampler: SamplerName | None = None
    """Diffusion: from noise to a latent."""
    steps: int | None = None
    """Diffusion: evaluations of the U-Net; None: 20 for dpm_solver, 200 for ddim. ddpm takes all of the schedule's."""
    snap: bool | None = None
    """Diffusion: move every estimate to the codebook's nearest vectors."""
    one_noise: bool | None = None
    """Diffusion: start all frames from the same noise; False: each from its own."""
    seed: int | None = None
    """Seed of the noise, or of sampled codes."""
    temperature: float | None = None
    """Autoregressive decoding: sample each code by its probability, with scores divided by this; below 1 likely codes
    become likelier. None: the most likely codes."""
    top_k: int | None = None
    """Sample among the `top_k` most likely codes; None: among all."""

    def __post_init__(self) -> None:
        convert_fields(self)
        for name in ("steps", "temperature", "top_k"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} should be more than 0, got {value}.")
        if self.sampler == "ddpm" and self.steps is not None:
            raise UserError(
                "ddpm takes all steps of the schedule: leave the number of steps out, or take ddim."
            )

    def given(self) -> dict[str, object]:
        """The options that are not None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def require(self, known: Collection[str], how: str) -> None:
        """Check that a decoder has the given options.

        Args:
            known: the options that it has.
            how: what it does, for the error.

        Raises:
            UserError: an option that it does not have.
        """
        wrong = [name for name in self.given() if name not in known]
        if wrong:
            choices = f"It takes {', '.join(sorted(known))}." if known else "It takes none of these."
            raise UserError(f"This model {how}: `{wrong[0]}` means nothing to it. {choices} Leave it out.")
