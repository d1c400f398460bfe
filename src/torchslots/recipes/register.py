"""Add models and recipes that are defined outside of the package."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.recipes.config import ModelConfig, Recipe


def register_model(
    config: type[ModelConfig],
    build: Callable[[Any], catalog.Built],
    *,
    title: str | None = None,
    recipes: Sequence[Callable[[], Recipe]] = (),
    replace: bool = False,
) -> None:
    """Add a model that is defined outside of the package, so that it trains, saves and loads by its name.

    Args:
        config: Its configuration, a frozen dataclass derived from `ModelConfig`, with a `family`, the name under which
            its models are saved, and the field `resolution`.
        build: From a configuration to an `ObjectCentricModel` with fresh weights, or a `Tokenizer`.
        title: How `torchslots recipes` calls it; None: the family.
        recipes: Functions that return a `Recipe`; its docstring says what it is.
        replace: Put it in place of what has its names already, as when a notebook's cell runs again.

    Raises:
        UserError: a configuration without a family or of another kind, a recipe that is none, or a name that is taken.

    Examples:
        >>> from dataclasses import dataclass
        >>> from torchslots.recipes import savi
        >>> @dataclass(frozen=True)
        ... class OwnConfig(savi.SaviConfig):
        ...     family = "own"
        >>> torchslots.register_model(OwnConfig, savi.build, title="Own", replace=True)
    """
    if not (
        isinstance(config, type) and issubclass(config, ModelConfig) and dataclasses.is_dataclass(config)
    ):
        raise UserError(f"`config` should be a frozen dataclass derived from ModelConfig, got {config!r}.")
    if not config.family or "resolution" not in {field.name for field in dataclasses.fields(config)}:
        raise UserError(
            f"{config.__name__} should say `family: ClassVar[str] = NAME` and have the field `resolution`, height and "
            "width of the frames."
        )
    named = {make: _checked(make, config) for make in recipes}
    _check_free("model family", config.family, catalog.families(), _place(build), replace)
    for make, recipe in named.items():
        _check_free("recipe", recipe.name, catalog.recipes(), _place(make), replace)
    catalog.FAMILIES[config.family] = catalog.Family(title or config.family, config, build)
    catalog.RECIPES.update({recipe.name: make for make, recipe in named.items()})


def register_recipe(make: Callable[[], Recipe], *, replace: bool = False) -> None:
    """Add a recipe for a model that the package, or a registered one, has.

    Args:
        make: Function that returns the `Recipe`; its docstring says what it is.
        replace: Put it in place of a recipe of this name.

    Raises:
        UserError: it returns no recipe, its model is not known, or the name is taken.

    Examples:
        >>> from dataclasses import replace
        >>> from torchslots.recipes import savi
        >>> def own_films():
        ...     "SAVi on own films."
        ...     return replace(savi.savi_small(), name="own_films")
        >>> torchslots.register_recipe(own_films, replace=True)
        >>> torchslots.list_recipes("own_films")
        ['own_films']
    """
    recipe = _checked(make, ModelConfig)
    if recipe.model.family not in catalog.families():
        raise UserError(
            f"The recipe `{recipe.name}` is for the model family `{recipe.model.family}`, which is not known. Register "
            "the model first, with torchslots.register_model."
        )
    _check_free("recipe", recipe.name, catalog.recipes(), _place(make), replace)
    catalog.RECIPES[recipe.name] = make


def _checked(make: Callable[[], Recipe], config: type[ModelConfig]) -> Recipe:
    recipe = make()
    if not isinstance(recipe, Recipe) or not isinstance(recipe.model, config):
        got = type(recipe.model if isinstance(recipe, Recipe) else recipe).__name__
        raise UserError(f"{_place(make)} should return a Recipe of a {config.__name__}, got a {got}.")
    return recipe


def _check_free(what: str, name: str, table: dict[str, Any], place: str, replace: bool) -> None:
    """Check that a name is not taken.

    Raises:
        UserError: it is, by whom.
    """
    if name in table and not replace:
        found = table[name]
        other = _place(found.build if isinstance(found, catalog.Family) else found)
        raise UserError(
            f"The {what} `{name}` is there twice: {place} registers it, and {other} has it already. Choose another "
            "name, or replace the first on purpose with replace=True."
        )


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"
