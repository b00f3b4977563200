"""One run of the tiny recipe, and its images."""

import pytest

from saccade.training import train
from tiny_runs import TINY, listener, opened


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """One run without any trouble, and its events."""
    folder = tmp_path_factory.mktemp("straight") / "new" / "run"
    heard, listen = listener()
    result = train(TINY, folder, device="cpu", notify=listen)
    return folder, result, heard


@pytest.fixture(scope="session")
def split():
    return opened(TINY)
