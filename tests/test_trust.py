"""Names and options in files are checked against lists."""

import pytest

from saccade import UserError
from saccade.controls import CONTROLS
from saccade.surgery import controls
from saccade.trust import check_mechanism, check_options


def test_the_controls_are_listed():
    kinds = (controls.ExtraBottleneck, controls.NoiseGate, controls.Shuffled)
    assert {f"{kind.__module__}:{kind.__qualname__}" for kind in kinds} == {c.path for c in CONTROLS.values()}


@pytest.mark.parametrize("key", ["Pretrained", "PRETRAINED_CFG", "encoder-weights", "CheckpointPath", "x.weights"])
def test_the_spelling_does_not_matter_nor_the_depth(key):
    for options in ({key: "x"}, {"a": {"b": [{key: 1}]}}):
        with pytest.raises(UserError, match="fetches weights or opens a file"):
            check_options(options, "file", 10)
    check_options({key: None, "b": {key: False}, "weight_init": "skip", "init_weights": True}, "file", 10)


@pytest.mark.parametrize("value", [11, -11, 10**30, float("nan"), float("inf"), [[{"a": 11}]]])
def test_numbers_are_bounded(value):
    with pytest.raises(UserError, match="is beyond 10"):
        check_options({"depth": value}, "file", 10)
    check_options({"depth": [10, -10, 0.5]}, "file", 10)


def test_a_misspelt_mechanism_is_no_matter_of_trust():
    with pytest.raises(UserError, match=r"no mechanism is called 'c-bam'. Did you mean 'cbam'") as refused:
        check_mechanism("c-bam", {}, "config.json", trust=False)
    assert "trust" not in str(refused.value)


@pytest.mark.parametrize("key", ["pretrained_window_sizes", "pretrained_window_size", "bbox_reg_weights"])
def test_numbers_that_sound_like_weights_are_none(key):
    check_options({key: [8, 8, 8, 8]}, "config.json", 1000)
    with pytest.raises(UserError, match="fetches weights"):
        check_options({key.replace("_", "") + "_weights": [8]}, "config.json", 1000)
