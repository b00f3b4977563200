"""The log-in: what ``--auth`` takes, and sessions."""

import pytest

from saccade.errors import UserError
from saccade.web.login import AUTH_VARIABLE, Login, parse_auth


def test_auth_from_the_option_a_file_and_the_environment(tmp_path, monkeypatch):
    assert parse_auth(None) is None
    assert parse_auth("ana:b:c") == Login("ana", "b:c")
    (tmp_path / "secret").write_text("ana:from the file\n")
    assert parse_auth(f"@{tmp_path / 'secret'}") == Login("ana", "from the file")
    monkeypatch.setenv(AUTH_VARIABLE, "eve:word")
    assert parse_auth(None) == Login("eve", "word")
    assert parse_auth("ana:b") == Login("ana", "b")


@pytest.mark.parametrize("text", ["", "ana", "ana:", ":word", "ana:\x00", "a" * 2000 + ":b", "@/nowhere/at/all"])
def test_no_auth_that_lets_anybody_in(text, monkeypatch):
    with pytest.raises(UserError, match=r"user:password|cannot read"):
        parse_auth(text)
    if not text.startswith("@"):
        monkeypatch.setenv(AUTH_VARIABLE, text.replace("\x00", "\x01"))
        with pytest.raises(UserError, match=AUTH_VARIABLE):
            parse_auth(None)


def test_a_session_opens_with_both_and_closes():
    login = Login("ana", "wörd")
    assert login.open("ana", "word") is None
    assert login.open("anb", "wörd") is None
    assert login.open("\ud800", "wörd") is None
    cookie = login.open("ana", "wörd")
    assert cookie is not None
    assert "HttpOnly" in cookie
    headers = {"cookie": f"other=1; {cookie.partition(';')[0]}"}
    assert login.is_open(headers)
    for other in ('state={"a": 1}', "list[0]=1", "flag", "name=é"):  # of other programs on the same host
        assert login.is_open({"cookie": f"{other}; {headers['cookie']}"})
    assert not login.is_open({"cookie": headers["cookie"][:-1]})
    assert not login.is_open({"cookie": "saccade-session="})
    assert not login.is_open({})
    login.close(headers)
    assert not login.is_open(headers)
