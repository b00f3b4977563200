"""Fixtures of tests that use several modules: hosts, saved networks, one tiny run, the command line in process."""

import pytest

from saccade.cli import main
from saved_folders import evil, folder, source
from surgery_hosts import computed, make, pair
from tiny_runs import split, straight

__all__ = ["computed", "evil", "folder", "make", "pair", "run", "source", "split", "straight"]


@pytest.fixture
def run(capsys, monkeypatch):
    """Function that calls ``saccade`` with arguments and returns exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["saccade", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return end.value.code, streams.out, streams.err

    return call
