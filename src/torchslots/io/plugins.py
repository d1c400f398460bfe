"""Entry points: functions of other installed packages that register what they add.

A package names its function in its pyproject.toml, `[project.entry-points."torchslots.recipes"]`. The function takes no
arguments; it is called once, when the first name is looked up.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from torchslots.io.errors import first_line, note

RECIPES, DATASETS = "torchslots.recipes", "torchslots.datasets"
"""The groups of entry points."""

_asked: set[str] = set()
"""Groups that were loaded, or are being loaded: what is registered may itself look names up."""


def load_plugins(group: str) -> None:
    """Call every function of the group, once in a process; of one that fails a note is printed, and others go on."""
    if group in _asked:
        return
    _asked.add(group)
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            register: Callable[[], object] = point.load()
            register()
        except Exception as error:  # whatever another package's code raises must not stop this one
            kind = f"{type(error).__name__}: " if str(error) else ""
            note(
                f"the package {_package(point)} adds nothing, since its entry point `{point.name} = {point.value}` "
                f"of {group} fails: {kind}{first_line(error)}. Mend, update or uninstall it."
            )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
