"""The command line, called in this process."""

import pytest

from saccade.cli import main


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
