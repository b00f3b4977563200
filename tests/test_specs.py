"""Facts are checked when read; those that depend on options are answered by functions."""

import json
import math

import pytest

from saccade.errors import UserError, did_you_mean
from saccade.specs import GateRange, Spec

FACTS = {"title": "T", "kind": "gate", "evidence": "paper"}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"titel": "T"}, "no key 'titel'. Did you mean 'title'?"),
        ({"title": "T", "kind": "gate"}, "lacks the key 'evidence'"),
        (FACTS | {"kind": "door"}, "kind = 'door'; it must be one of gate, context"),
        (FACTS | {"equivariant": ["rotation"]}, "equivariant = 'rotation'"),
        (FACTS | {"gate": (0, 1, 2)}, "SPEC's gate must be (low, high) or text, got (0, 1, 2)"),
        (FACTS | {"gate": ["0", "1"]}, "SPEC's gate must be (low, high) or text"),
        (FACTS | {"aliases": "g"}, "SPEC's aliases must be a list, got 'g'"),
        (FACTS | {"params": "C"}, "no key 'params'"),
        (FACTS | {"find_function": len}, "no key 'find_function'"),
        (FACTS | {"needs": ["luck"]}, "needs = 'luck'"),
        (FACTS | {"position": {"resnet": "stage"}}, "lacks the key 'default'"),
        (
            FACTS | {"position": {"default": "residal"}},
            "position 'residal'. Did you mean 'residual'? Needed is one of stage,",
        ),
        (
            FACTS | {"position": {"default": "stage", "vgg": ["block", "conv3x3 in stages[1]"]}},
            "'conv3x3 in stages[1]'. N",
        ),
        (FACTS | {"position": {"default": "paper"}}, "position 'paper'. Needed"),
        (FACTS | {"position": {"default": "stage", "vgg": 3}}, "position 3. Needed"),
        (FACTS | {"paper": {"authors": "A"}}, "missing"),
        (FACTS | {"limits": "few"}, "SPEC's limits must be a list, got 'few'"),
        (FACTS | {"neutral": None}, "SPEC's neutral must be True, False or text, got None"),
        (FACTS | {"moves_features": "yes"}, "SPEC's moves_features must be True or False, got 'yes'"),
        ("gate", "SPEC must be a dictionary, got 'gate'"),
        (FACTS | {"published": [{"net": "resnet50", "colour": 1}]}, "colour"),
        (FACTS | {"code": "a/b"}, "SPEC's code must be a list"),
        (FACTS | {"code": ["PytorchInsight"]}, "got 'PytorchInsight'"),
    ],
)
def test_wrong_facts_are_refused(facts, message):
    with pytest.raises(UserError) as caught:
        Spec.read(facts, "mine")
    assert message in str(caught.value)
    assert str(caught.value).startswith("mine: ")


def _spec(**facts):
    """A SPEC whose functions are given like facts; where there is no text yet, it is made."""
    functions = {key: value for key, value in facts.items() if callable(value)}
    words = {key: "it depends" for key in functions if key != "parameters"}
    return Spec.read(FACTS | {key: value for key, value in facts.items() if key not in functions} | words, "mine",
                     functions.get)  # fmt: skip


def test_literal_facts_hold_for_all_options():
    spec = _spec(neutral=True, gate=(0.622, 1), equivariant=["flip"])
    assert spec.is_neutral({"fuse": False})
    assert spec.gate_range(8, {}) == GateRange(0.622, 1)
    assert spec.symmetries(8, {}) == {"flip"}
    plain = _spec()
    assert not plain.is_neutral({})
    assert (plain.gate_range(8, {}), plain.symmetries(8, {}), plain.parameters(8, {})) == (None, set(), None)


def test_functions_get_the_options_that_they_name():
    spec = _spec(
        parameters=lambda channels, bias: 2 * channels + bias,
        neutral=lambda fuse: not fuse,
        gate=lambda channels, act: GateRange(-1, channels) if act == "tanh" else None,
        equivariant=lambda stride: ("transpose", "flip") if stride == 1 else ("transpose",),
    )
    options = {"fuse": False, "act": "tanh", "stride": 1, "bias": True}
    assert spec.parameters(8, options) == 17
    assert [spec.is_neutral({"fuse": fuse}) for fuse in (False, True)] == [True, False]
    assert [spec.gate_range(8, {"act": act}) for act in ("tanh", "none")] == [GateRange(-1, 8), None]
    assert [spec.symmetries(8, {"stride": n}) for n in (1, 2)] == [{"transpose", "flip"}, {"transpose"}]
    assert _spec(parameters=lambda channels, **options: channels * len(options)).parameters(8, options) == 32
    assert _spec(parameters=lambda channels, extra=1: channels + extra).parameters(8, options) == 9
    with pytest.raises(UserError, match="T: neutral needs fuse"):
        spec.is_neutral({"act": "tanh"})


def test_a_fact_in_words_needs_a_function():
    with pytest.raises(UserError, match="T: its module defines no function neutral"):
        _spec(neutral="with luck").is_neutral({})


def test_a_count_that_needs_the_size_waits_for_it():
    spec = _spec(parameters=lambda channels, size: channels * size[0], needs=["size"])
    assert (spec.parameters(3, {"size": None}), spec.parameters(3, {"size": (5, 4)})) == (None, 15)


def test_facts_as_json_knows_them():
    facts = json.loads(json.dumps(_spec(gate=(0, 1), neutral=lambda: True, code=["a/b (c=1)"]).to_json()))
    assert (facts["gate"], facts["neutral"], facts["code"]) == ("(0, 1)", "it depends", ["a/b (c=1)"])
    assert facts.keys() == Spec.read(FACTS, "mine").to_json().keys()


@pytest.mark.parametrize(
    ("interval", "words", "inside"),
    [
        (GateRange(0, 1), "(0, 1)", [0.5]),
        (GateRange(0, math.inf, includes_low=True), "[0, inf)", [0.0, 0.5, 1.0, 9.0]),
        (GateRange(-math.inf, 1), "(-inf, 1)", [-2.0, 0.0, 0.5]),
    ],
)
def test_intervals(interval, words, inside):
    assert str(interval) == words
    assert [value for value in (-2.0, 0.0, 0.5, 1.0, 9.0, float("nan")) if interval.contains(value)] == inside


def test_near_spellings():
    assert did_you_mean("cmab", ["cbam", "das"]) == " Did you mean 'cbam'?"
    assert did_you_mean("SE", ["se"]) == " Did you mean 'se'?"
    assert did_you_mean("rd_ration", ["excitation", "rd_ratio"]) == " Did you mean 'rd_ratio'?"
    assert did_you_mean("ration", ["excitation", "rd_ratio"]) == " Did you mean 'rd_ratio' or 'excitation'?"
    assert did_you_mean("zzz", ["cbam", "das"]) == ""


@pytest.mark.parametrize(
    "position",
    ["stage", "residual[last]", "stage[1:-1]", "conv3x3 in stage[-3:]", "conv3x3 in stage[-1][first]",
     "block in decoder", "block in decoder[1:][-1]", "residual in encoder[0]", ["stage", "block[0]"]],
)  # fmt: skip
def test_positions_that_plug_accepts_are_accepted(position):
    assert Spec.read(FACTS | {"position": {"default": "skip", "vgg": position}}, "mine").position["vgg"] == position
