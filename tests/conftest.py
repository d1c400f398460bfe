"""Options that all tests share."""

from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests that take a device run: cpu, cuda")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of tests that are marked `device`; TF32 is off by torch's own default."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The recorded values."""
    return Path(__file__).parent / "golden"
