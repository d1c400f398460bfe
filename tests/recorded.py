"""Where the recorded values lie."""

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
