"""Settings that a recipe leaves to timing as ``auto``."""

from saccade import Recipe
from saccade.decisions import auto_keys, choices, decide, is_auto
from tiny_runs import TINY

FORMAT, PRECISION = "training.memory_format", "training.precision"
OPEN = TINY.with_overrides({FORMAT: "auto", PRECISION: "auto"})


def test_auto_settings():
    assert choices(FORMAT) == ("contiguous", "channels_last")
    assert choices(PRECISION) == ("32", "bf16"), "the default first"
    assert auto_keys([TINY]) == []
    assert auto_keys([TINY, OPEN]) == [FORMAT, PRECISION]
    assert decide(OPEN, {FORMAT: "channels_last", PRECISION: "32"}) == TINY.with_overrides({FORMAT: "channels_last"})
    assert decide(TINY, {FORMAT: "channels_last"}) == TINY
    assert is_auto(f"arms.x.{FORMAT}", "auto")
    assert not is_auto("data.layout", "auto")
    assert not is_auto(FORMAT, "contiguous")
    assert (Recipe().training.memory_format, Recipe().training.precision) == ("contiguous", "32")
