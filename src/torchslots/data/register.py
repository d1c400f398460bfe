"""Add data sets that are defined outside of the package."""

from collections.abc import Sequence

from torchslots.data import catalog
from torchslots.io.errors import UserError, check_type

_WIDEST = 45
"""Characters of a description, so that the list fits 80 columns."""


def register_dataset(
    name: str,
    open: catalog.Open,
    *,
    description: str,
    splits: Sequence[str] = ("train", "validation"),
    licence: str = "not stated",
    size: str = "not stated",
    get: str = "",
    num_background: int | None = 1,
    classes: bool = False,
    replace: bool = False,
) -> None:
    """Add a data set that is defined outside of the package, so that it is listed, inspected, opened and trained on.

    Args:
        name: What `--data` and `open_dataset` take.
        open: From (root, split, `DataConfig`) to a `torchslots.data.clips.Source`. Import what is heavy inside of it.
        description: What it is, in at most 45 characters.
        splits: Names of its splits.
        licence: What the publisher says.
        size: Roughly how many videos or images, and how large.
        get: A sentence on how to get it, for who has not.
        num_background: Ids from 0 that are background; 0: only objects have labels.
        classes: Whether its masks tell classes, too.
        replace: Put it in place of a data set of this name, as when a notebook's cell runs again.

    Raises:
        UserError: a name that is taken, a description that is too long, or no splits.

    Examples:
        >>> from torchslots.data.sets import opener
        >>> torchslots.register_dataset("own", opener.own_files, description="Own films", replace=True)
        >>> torchslots.list_datasets("own films")
        ['own']
    """
    if check_type("name", name, str) in catalog.datasets() and not replace:
        other = catalog.datasets()[name]
        raise UserError(
            f"The data set `{name}` is there twice: {open.__module__} registers it, and there is already "
            f"`{other.description}`. Choose another name, or replace the first on purpose with replace=True."
        )
    if not 0 < len(check_type("description", description, str)) <= _WIDEST:
        raise UserError(f"`description` should have 1 to {_WIDEST} characters, got {description!r}.")
    if not splits or isinstance(splits, str):
        raise UserError(f"`splits` should be names such as ('train', 'validation'), got {splits!r}.")
    catalog.DATASETS[name] = catalog.DatasetEntry(
        open=open,
        description=description,
        licence=licence,
        splits=tuple(splits),
        size=size,
        get=get,
        num_background=num_background,
        classes=classes,
    )
