"""Records of finished results that are damaged or foreign: the input is not done."""

import json
from pathlib import Path
from typing import Any

import pytest

from torchslots.inference.finished import is_done, read_record, record_file


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ({}, True),
        ({"files": []}, False),
        ({"files": None}, False),
        ({"files": {"masks": []}}, False),
        ({"files": {"masks": 3}}, False),
        ({"files": {"masks": {"masks.npz": "3"}}}, False),
        ({"files": {"masks": {"masks.npz": 4}}}, False),
        ({"files": {"masks": {"masks.npz": 1e300}}}, False),
        ({"files": {}}, False),
        ({"key": ["a"]}, False),
        ({"more": 1}, False),
    ],
)
def test_damaged_records(tmp_path: Path, change: dict[str, Any], done: bool) -> None:
    folder = tmp_path / "film"
    folder.mkdir()
    (folder / "masks.npz").write_bytes(b"abc")
    record = {"key": "a", "strict": True, "files": {"masks": {"masks.npz": 3}}} | change
    record_file(folder).parent.mkdir()
    record_file(folder).write_text(json.dumps(record))
    assert is_done(folder, "a", ("masks",), strict=True) is done
    record_file(folder).write_text("[" * 5000)
    assert read_record(folder) is None
