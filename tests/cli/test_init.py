"""Wrong words on the command line."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shwo", "das"), "there is no command 'shwo'. Did you mean 'show'?"),
        (("list", "--jsno"), "--jsno"),
        (("show", "cbma"), "no mechanism and no architecture is called 'cbma'. Did you mean 'cbam'"),
        (("show",), "Missing argument 'NAME'"),
    ],
)
def test_wrong_words_end_in_one_message(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
