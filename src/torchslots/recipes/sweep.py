"""One experiment on several data sets: recipes by name from one function."""

from collections.abc import Callable, Mapping

from torchslots.recipes.config import Recipe


def sweep(
    prefix: str, make: Callable[[str], Recipe], about: Mapping[str, str]
) -> dict[str, Callable[[], Recipe]]:
    """Functions by name: for each setting a documented `PREFIX_SETTING` that returns `make(setting)`.

    Args:
        make: a setting, such as a data set's name, to its recipe.
        about: the docstring of each setting's function.
    """
    return {f"{prefix}_{setting}": _named(prefix, make, setting, text) for setting, text in about.items()}


def _named(prefix: str, make: Callable[[str], Recipe], setting: str, about: str) -> Callable[[], Recipe]:
    def recipe() -> Recipe:
        return make(setting)

    recipe.__name__ = recipe.__qualname__ = f"{prefix}_{setting}"
    recipe.__doc__ = about
    return recipe
