"""Fixtures of tests that use several modules: one tiny run, its images, and the command line in this process."""

import pytest

from saccade.cli import main
from tiny_runs import split, straight

__all__ = ["run", "split", "straight"]


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
