"""COCO's and YouTube-VIS' annotation files: JSON tables, checked row by row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchslots.io.errors import UserError
from torchslots.io.json_files import read_object

Row = dict[str, Any]
Kinds = Mapping[str, type | tuple[type, ...]]
"""Fields that each row of a table must have, and their types."""
_MOST_NUMBER = 1 << 63
_MOST_CATEGORY = 1 << 31
_MOST_PIXELS = 178_956_970
"""Of an image; Pillow opens no larger ones."""


class AnnotationFile:
    """One file's tables.

    Args:
        path: The JSON file.
        remedy: How to get it anew, a sentence for messages.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        """Read it.

        Raises:
            UserError: it is not there, cut off, nested too deeply, or no object.
        """
        self.path, self._remedy = path, remedy
        self._tables: Row = read_object(path, remedy)

    def error(self, what: str) -> UserError:
        """A message about this file: what is wrong, and how to get it anew."""
        return UserError(f"{self.path} {what}. {self._remedy}")

    def rows(self, table: str, kinds: Kinds) -> list[Row]:
        """A table's rows.

        Raises:
            UserError: there is no such table, a row lacks a field, a field has another type or more than 63 bits,
                a size is none, or two rows have the same `id`.
        """
        rows = self._tables.get(table)
        if not isinstance(rows, list):
            raise self.error(f"has no list `{table}`")
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise self.error(f"holds a {type(row).__name__} as entry {number} of `{table}`")
            for field, kind in kinds.items():
                if not _is(row.get(field), kind):
                    raise self.error(self._lacks(table, number, row, field))
            self._check_size(table, number, row, kinds)
        self._check_ids(table, rows)
        return rows

    def _check_size(self, table: str, number: int, row: Row, kinds: Kinds) -> None:
        """Raise a `UserError` where `height` and `width` are those of no image that can be opened."""
        for field in ("height", "width") if "height" in kinds else ():
            if row[field] < 1 or row["height"] * row["width"] > _MOST_PIXELS:
                raise self.error(self._lacks(table, number, row, field))

    def _check_ids(self, table: str, rows: list[Row]) -> None:
        seen = set()
        for number in (row["id"] for row in rows if "id" in row):
            if number in seen:
                raise self.error(f"has id {number} twice in `{table}`")
            seen.add(number)

    def _lacks(self, table: str, number: int, row: Row, field: str) -> str:
        which = f"id {row['id']}" if "id" in row else f"entry {number}"
        if field not in row:
            return f"lacks `{field}` of {which} in `{table}`"
        return f"has {str(row[field])[:40]!r} as `{field}` of {which} in `{table}`"

    def is_crowd(self, row: Row) -> bool:
        """Whether an annotation is of a crowd; without `iscrowd` it is not.

        Raises:
            UserError: `iscrowd` is neither 0 nor 1.
        """
        told = row.get("iscrowd", 0)
        if not isinstance(told, int) or told not in (0, 1):
            raise self.error(
                f"has {str(told)[:40]!r} as `iscrowd` of annotation {row['id']}, neither 0 nor 1"
            )
        return bool(told)

    def categories(self) -> set[int]:
        """Numbers of the classes.

        Raises:
            UserError: there is no such table, or a number is not positive, since 0 stands for no class.
        """
        found = {row["id"] for row in self.rows("categories", {"id": int})}
        wrong = [number for number in found if not 0 < number < _MOST_CATEGORY]
        if wrong:
            raise self.error(f"has category {wrong[0]}, but categories are numbered from 1")
        return found


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a value is of a kind, as numpy can hold it too; true and false are no numbers."""
    if isinstance(value, int):
        return isinstance(value, kind) and not isinstance(value, bool) and abs(value) < _MOST_NUMBER
    return isinstance(value, kind)
