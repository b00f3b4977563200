"""``saccade serve``: its arguments, its address and what it leaves behind."""

import os
import socket
from pathlib import Path

import pytest
import uvicorn

from saccade.errors import UserError
from saccade.web.server import serve


@pytest.fixture
def no_server(monkeypatch):
    """Replace the server by a list of the folder and the settings while it runs."""
    seen = []

    def run(self, sockets):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        (folder / "left").write_text("over")
        seen.append((folder, os.environ["GRADIO_ANALYTICS_ENABLED"], sockets[0].getsockname(), self.config.app))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return seen


def test_it_listens_where_it_says_and_removes_its_folder(run, saved, no_server, monkeypatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    code, out, _ = run("serve", str(saved), "--port", "0", "--name", "Page.example")
    ((folder, analytics, (host, port), guard),) = no_server
    assert (code, host, analytics) == (0, "127.0.0.1", "False")
    assert f"http://127.0.0.1:{port}/" in out
    assert not folder.exists()
    assert "GRADIO_TEMP_DIR" not in os.environ
    assert guard.login is None
    assert guard.max_bytes == 20_000_000
    assert {"127.0.0.1", "page.example"} < guard.hosts


def test_another_host_a_log_in_and_a_limit(saved, no_server, caplog):
    serve([saved], host="0.0.0.0", port=0, auth="ana:word", max_megabytes=3, ready=lambda address: None)
    assert caplog.text == ""
    serve([saved], host="0.0.0.0", port=0, ready=lambda address: None)
    assert "everybody who reaches 0.0.0.0" in caplog.text
    (_, _, _, guard), _ = no_server
    assert guard.login.user == "ana"
    assert (guard.max_bytes, guard.hosts) == (3_000_000, None)


def test_wrong_arguments_are_refused(run, saved, tmp_path, no_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, message = run("serve", str(saved), "--port", port)
        assert (code, f"port {port}: Address already in use" in message) == (2, True)
    for arguments, text in (
        (["--auth", "ana"], "user:password"), (["--auth", ":"], "user:password"), (["--max-size", "0"], "0"),
        (["--host", "no.such.host.invalid"], "cannot listen"), (["--host", 64 * "a"], "cannot listen"),
    ):  # fmt: skip
        code, _, message = run("serve", str(saved), "--port", "0", *arguments)
        assert (code, text in message) == (2, True), message
    code, _, message = run("serve", str(tmp_path), "--port", "0")
    assert (code, "no saved network" in message) == (2, True)
    with pytest.raises(UserError, match="1 to 200 MB"):
        serve([saved], max_megabytes=0)
    assert no_server == []
