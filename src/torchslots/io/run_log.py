"""Read the metrics that a run has logged."""

from pathlib import Path
from typing import Any

from torchslots.io.json_files import parse_json

METRICS_NAME = "metrics.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """A run's records, one for each logged step, in order; [] where there is no log."""
    records: dict[int, dict[str, Any]] = {}
    for record in read_records(run / METRICS_NAME):
        records.setdefault(record["step"], {}).update(record)
    return [records[step] for step in sorted(records)]


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of a log in the order of writing; unfinished lines of a killed process are skipped."""
    if not file.exists():
        return []
    records = []
    for line in file.read_bytes().split(b"\n"):
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
