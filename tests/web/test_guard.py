"""Requests: what passes, what is refused, and that an upload leaves nothing behind."""

import io
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from hostile import watched
from hostile_pictures import hostile_pictures
from saccade.web.guard import Guard


@cache
def png():
    file = io.BytesIO()
    Image.effect_noise((30, 20), 90).convert("RGB").save(file, "PNG")
    return file.getvalue()


def post(client, content, **headers):
    return client.post("/picture", content=content, headers=headers)


def test_without_a_session_there_is_only_the_log_in(visitor):
    page = visitor.get("/")
    assert page.status_code == 401
    assert 'type="password"' in page.text
    assert "gradio" not in page.text
    for path in ("/theme.css", "/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a", "/page.js"):
        assert visitor.get(path).status_code == 401
    assert post(visitor, png()).status_code == 401
    join = {"data": [], "fn_index": 0, "session_hash": "a"}
    assert visitor.post("/gradio_api/queue/join", json=join).status_code == 401
    many = {f"user{n}": "ana" for n in range(9)}
    for form in (
        many,
        {"user": "ana", "password": "a long"},
        {"user": "", "password": ""},
        {"user": ["ana", "eve"]},
        {},
    ):
        assert visitor.post("/login", data=form).status_code == 401
    assert visitor.get("/").status_code == 401


def test_one_address_guesses_one_password_at_a_time(visitor, guard, monkeypatch):
    monkeypatch.setattr("saccade.web.guard._REFUSAL_SECONDS", 0.5)
    right = {"user": "ana", "password": "a long: password"}
    with ThreadPoolExecutor(4) as pool:
        codes = list(
            pool.map(lambda n: visitor.post("/login", data={"user": "ana", "password": n}).status_code, "abcd")
        )
        assert sorted(codes) == [401, 429, 429, 429]
        wrong = pool.submit(visitor.post, "/login", data={"user": "ana"})
        while not guard._waiting:
            time.sleep(0.01)
        assert visitor.post("/login", data=right).status_code == 429
        assert wrong.result().status_code == 401
    assert visitor.post("/login", data=right).status_code == 303


def test_a_session_ends_with_the_log_out(client):
    assert client.get("/").status_code == 200
    client.post("/logout")
    assert client.get("/").status_code == 401


def test_the_page_names_no_other_server_and_runs_no_script_of_others(client):
    page = client.get("/", headers={"Accept-Encoding": "br, gzip"})
    policy = page.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert page.text.count("<script") == page.text.count(f'<script nonce="{nonce}"') > 3
    assert "alert(1)" in page.text  # in the name of a class
    assert "<script>alert" not in page.text
    assert f'nonce="{nonce}">alert' not in page.text
    assert "raw.githubusercontent" not in page.text
    assert "og:image" not in page.text
    assert "manifest.json" not in page.text
    assert nonce not in client.get("/").text
    theme = client.get("/theme.css")
    assert theme.status_code == 200
    assert "http" not in theme.text.replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in theme.text
    for answer in (page, theme, client.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd", "/gradio_api/upload",
        "/gradio_api/proxy=http://127.0.0.1:1/", "/static/../../../../../etc/passwd", "/assets/..%2f..%2findex.html",
        "/assets/%2e%2e/%2e%2e/%2e%2e/cli/__init__.py", "/gradio_api/vibe-code", "/gradio_api/runs", "/monitoring",
        "/monitoring/summary", "/gradio_api/stream/a/b/c/playlist.m3u8", "/config", "/gradio_api/info", "/docs",
        "/gradio_api/dev/reload", "/gradio_api/mcp/", "/custom_component/a/b/c/d", "/manifest.json", "//etc/passwd",
        "/svelte/a", "/gradio_api/deep_link", "/gradio_api/call/cards", "/gradio_api/token",
    ],
)  # fmt: skip
def test_routes_that_the_page_does_not_need_do_not_exist(client, path):
    for method in ("GET", "POST", "HEAD", "PUT", "DELETE"):
        answer = client.request(method, httpx.URL(str(client.base_url) + path), content=b"")
        assert answer.status_code == 404, (method, path)
        assert b"root:" not in answer.content


def test_the_page_reads_no_deep_link(client):
    assert '"deep_link_state":"none"' in client.get("/", params={"deep_link": "saved"}).text


def call(client, values, index=1):
    """Call the function ``index`` of the page through Gradio's queue, and return the last message."""
    session = "s3cret"
    body = {"data": values, "fn_index": index, "session_hash": session}
    answer = client.post("/gradio_api/queue/join", json=body)
    assert answer.status_code == 200, answer.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line.removeprefix("data:"))
                if message["msg"] in ("process_completed", "unexpected_error"):
                    return message
    raise AssertionError("the stream ended")


def test_the_queue_answers_and_paths_are_not_read(client, caplog):
    values = ["example:0", ["none"], "", "", "gradcam", 0.5, 0.6]
    message = call(client, values)
    assert message["success"]
    assert "class=" in json.dumps(message["output"])
    for trick in ({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "/etc/passwd", "upload:/etc/passwd"):
        text = json.dumps(call(client, [trick, *values[1:]]))
        assert "root:" not in text
        assert "data:image" not in text
    with caplog.at_level(logging.CRITICAL):
        for wrong in ([1, 2], ["example:0", "none", 7, None, [], "x", {}], ["example:0", ["none"], "", "", "a", 9, 9]):
            assert not call(client, wrong)["success"]
    assert call(client, values)["success"]


def test_a_request_that_gradio_fails_on_is_one_line_of_the_log(client, caplog):
    answer = client.get("/gradio_api/queue/data", params={"session_hash": "never opened"})
    assert "Traceback" not in answer.text
    for body in (b"{", b"[]", b'{"data": 1}', b"\xff", b'{"session_hash": {}, "data": null, "fn_index": 1e400}'):
        headers = {"Content-Type": "application/json"}
        assert client.post("/gradio_api/queue/join", content=body, headers=headers).status_code >= 400
    records = [record for record in caplog.records if record.name.startswith("saccade")]
    assert [record.exc_info for record in records] == [None] * len(records)
    assert "/gradio_api/queue/data failed" in caplog.text
    assert client.get("/").status_code == 200


def test_other_names_and_sites_are_refused(client, guard):
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"Host": "127.0.0.1@evil.example"}).status_code == 421
    assert client.get("/", headers={"Host": "[127.0.0.1"}).status_code == 400
    assert post(client, png(), Origin="http://[").status_code == 400
    assert post(client, png(), Origin="http://evil.example").status_code == 403
    assert post(client, png(), Origin="null").status_code == 403
    assert post(client, png(), Origin=str(client.base_url)).status_code == 200
    assert Guard(guard.application, guard.pictures, None, 1).hosts is None


def test_the_size_of_an_upload_is_limited(client):
    for content in (bytes(1_000_001), (bytes(100_000) for _ in range(20))):  # the second states no length
        answer = post(client, content)
        assert answer.status_code == 413
        assert answer.json() == {"message": "The file is too large; at most 1 MB are taken."}
    assert client.post("/gradio_api/queue/join", content=b"[" * 300_000).status_code == 413


def test_a_slow_upload_is_ended(client, monkeypatch):
    def slowly():
        yield png()[:50]
        time.sleep(0.4)
        yield png()[50:]

    assert post(client, slowly()).status_code == 200
    monkeypatch.setattr("saccade.web.guard._UPLOAD_SECONDS", 0.1)
    for path in ("/picture", "/login"):
        answer = client.post(path, content=slowly())
        assert (answer.status_code, answer.json()) == (408, {"message": "The upload takes too long."})


def test_hostile_uploads_get_a_message_and_leave_no_file(client, settings):
    files = hostile_pictures()
    assert len(files) >= 100
    before, answers = sorted(settings.parent.rglob("*")), {}
    with watched() as acts:
        for n, (name, content) in enumerate(files):
            trick = ("../../../etc/cron.d/a.png", "a\x7f.png", "\u202egnp.exe", "con.jpg")[n % 4]
            headers = {"Content-Type": "image/png", "X-File-Name": trick.encode().hex()}
            answer = client.post(f"/picture?name={quote(trick)}", content=content, headers=headers)
            answers[name] = answer.status_code
            assert answer.status_code in (200, 413, 422), name
            assert set(answer.json()) == ({"source"} if answer.status_code == 200 else {"message"})
            assert "Traceback" not in answer.text
    assert acts == []
    refused = ("SVG", "HTML", "pickle", "ZIP", "GIF", "bomb of grey pixels", "nothing", "NaN pixels")
    assert [name for name in refused if answers[name] == 200] == []
    taken = ("one pixel", "CMYK", "16 bits", "EXIF in a circle", "JPEG and HTML", "animated WebP")
    assert [name for name in taken if answers[name] != 200] == []
    source = post(client, png()).json()["source"]
    assert call(client, [source, ["none", "saved"], "", "", "gradcam", 0.5, 0.6])["success"]
    assert sorted(settings.parent.rglob("*")) == before
    with watched() as acts:
        (settings / "left").write_text("over")
    assert len(acts) == 1
    (settings / "left").unlink()
