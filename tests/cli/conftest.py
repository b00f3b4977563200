"""The command line, called in this process."""

import pytest

from saccade.cli import main


@pytest.fixture
def run(capsys, monkeypatch):
    """``run("list", "--json")`` -> exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["saccade", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return end.value.code, streams.out, streams.err

    return call
