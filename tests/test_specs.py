"""Facts are checked when read, formulas are arithmetic and nothing else."""

import pytest

from saccade.errors import UserError, did_you_mean
from saccade.specs import Spec, conditions, evaluate, within

FACTS = {"title": "T", "kind": "gate", "evidence": "paper"}


@pytest.mark.parametrize(
    ("expression", "values", "expected"),
    [
        ("2*C*int(C*rd_ratio)", {"C": 70, "rd_ratio": 1 / 16}, 560),
        ("k or int(abs((log2(C) + 1) / 2)) | 1", {"k": None, "C": 256}, 5),
        ("k or int(abs((log2(C) + 1) / 2)) | 1", {"k": 3, "C": 256}, 3),
        ("C if bias else 0", {"C": 7, "bias": False}, 0),
        ("0 < C <= 4 and C % 2 == 0", {"C": 4}, True),
        ("0 < C <= 4 and C % 2 == 0", {"C": 5}, False),
        ("k == None or k % 2 == 1", {"k": None}, True),
        ("k is None or k > 2", {"k": None}, True),
        ("k is not None and k > 2", {"k": 3}, True),
        ("-C + max(1, 2**3, ceil(2.1))", {"C": 3}, 5),
        ("3*C // (groups or gcd(64, C // 2))", {"C": 96, "groups": None}, 18),
    ],
)
def test_evaluate(expression, values, expected):
    assert evaluate(expression, values) == expected


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "C.real", "[C]", "open(C)", "D + 1", "lambda: 1", "max(*C)", "C @ C", "C in C", "C <"],
)
def test_evaluate_refuses_what_is_not_arithmetic(expression):
    with pytest.raises(ValueError, match="expression"):
        evaluate(expression, {"C": 1})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"titel": "T"}, "no fact called 'titel'. Did you mean 'title'?"),
        ({"title": "T", "kind": "gate"}, "does not say 'evidence'"),
        (FACTS | {"kind": "door"}, "kind = 'door'; it must be one of gate, context"),
        (FACTS | {"equivariant": ["rotation"]}, "equivariant = 'rotation'"),
        (FACTS | {"equivariant": ["rotation if n == 4"]}, "equivariant = 'rotation'"),
        (FACTS | {"equivariant": ["flip if n =="]}, "SPEC's equivariant: the expression 'n ==' cannot be read"),
        (FACTS | {"gate": (0, 1, 2)}, "SPEC's gate must be (low, high) or a list of '[low, high) if condition'"),
        (FACTS | {"gate": "(0, 1)"}, "SPEC's gate must be"),
        (FACTS | {"gate": ["0, 1"]}, "SPEC's gate must be"),
        (FACTS | {"gate": ["(0, 1) unless hard"]}, "got ['(0, 1) unless hard']"),
        (FACTS | {"gate": ["(0, 1) if [hard]"]}, "SPEC's gate: the expression '[hard]' holds List"),
        (FACTS | {"needs": ["luck"]}, "needs = 'luck'"),
        (FACTS | {"position": {"resnet": "stage"}}, "lacks the key 'default'"),
        (FACTS | {"paper": {"authors": "A"}}, "missing"),
        (FACTS | {"limits": "C > 1"}, "SPEC's limits must be a list, got 'C > 1'"),
        (FACTS | {"limits": ["C > 1", "C <"]}, "SPEC's limits: the expression 'C <' cannot be read"),
        (FACTS | {"limits": ["C in (1, 2)"]}, "SPEC's limits: the expression 'C in (1, 2)' holds"),
        (FACTS | {"params": 3}, "SPEC's params: the expression 3"),
        (FACTS | {"neutral": "not [fuse]"}, "SPEC's neutral: the expression 'not [fuse]' holds"),
        (FACTS | {"neutral": None}, "SPEC's neutral: the expression None"),
        ("gate", "SPEC must be a dictionary, got 'gate'"),
        (FACTS | {"published": [{"net": "resnet50", "colour": 1}]}, "colour"),
        (FACTS | {"code": "a/b"}, "SPEC's code must be a list"),
        (FACTS | {"code": ["PytorchInsight"]}, "got 'PytorchInsight'"),
        (FACTS | {"code": ["a/b if [x]"]}, "SPEC's code: the expression '[x]' holds List"),
    ],
)
def test_wrong_facts_are_refused(facts, message):
    with pytest.raises(UserError) as caught:
        Spec.read(facts, "mine")
    assert message in str(caught.value)
    assert str(caught.value).startswith("mine: ")


def test_refusal_names_the_numbers():
    spec = Spec.read(FACTS | {"limits": ["C % groups == 0"]}, "mine")
    assert spec.refusal(12, {"groups": 4}) is None
    assert spec.refusal(10, {"groups": 4}) == "T needs channels % groups == 0; found channels = 10, groups = 4"


def test_neutral_may_hang_on_an_option():
    spec = Spec.read(FACTS | {"neutral": "not fuse"}, "mine")
    assert (spec.is_neutral({"fuse": False}), spec.is_neutral({"fuse": True})) == (True, False)
    assert Spec.read(FACTS | {"neutral": True}, "mine").is_neutral({})
    assert not Spec.read(FACTS, "mine").is_neutral({})


def test_symmetries_may_hang_on_options():
    spec = Spec.read(FACTS | {"equivariant": ["transpose", "flip if stride == 1", "permutation if C < stride"]}, "mine")
    assert spec.commutes({"C": 8, "stride": 1}) == {"transpose", "flip"}
    assert spec.commutes({"C": 8, "stride": 2}) == {"transpose"}
    assert spec.commutes({"C": 8, "stride": 9}) == {"transpose", "permutation"}
    assert conditions(spec.equivariant) == ["stride == 1", "C < stride"]


def test_the_code_that_it_equals_may_hang_on_options():
    spec = Spec.read(FACTS | {"code": ["a/b", "c/d if bias", "e/f.g if not bias"]}, "mine")
    assert [spec.equals({"bias": bias}) for bias in (True, False)] == [["a/b", "c/d"], ["a/b", "e/f.g"]]
    assert Spec.read(FACTS, "mine").equals({}) == []


def test_the_range_of_a_gate_may_hang_on_options():
    spec = Spec.read(FACTS | {"gate": ["(-1, 1) if act == 'tanh'", "[0, inf) if act == 'relu'"]}, "mine")
    assert [spec.gates({"act": act}) for act in ("tanh", "relu", "none")] == ["(-1, 1)", "[0, inf)", None]
    always = Spec.read(FACTS | {"gate": ["(0, 0.5) if C < 8", "[-0.5, 2]"]}, "mine")
    assert [always.gates({"C": channels}) for channels in (7, 8)] == ["(0, 0.5)", "[-0.5, 2]"]
    assert Spec.read(FACTS | {"gate": (0.622, 1)}, "mine").gates({}) == "(0.622, 1)"
    assert Spec.read(FACTS, "mine").gates({}) is None


@pytest.mark.parametrize(
    ("interval", "inside"),
    [
        ("(0, 1)", [0.5]),
        ("[0, 1)", [0.0, 0.5]),
        ("(0, 1]", [0.5, 1.0]),
        ("[0, inf)", [0.0, 0.5, 1.0, 9.0]),
        ("(-inf, 1)", [-2.0, 0.0, 0.5]),
    ],
)
def test_ends_that_belong_to_an_interval(interval, inside):
    assert [value for value in (-2.0, 0.0, 0.5, 1.0, 9.0, float("nan")) if within(value, interval)] == inside


def test_near_spellings():
    assert did_you_mean("cmab", ["cbam", "das"]) == " Did you mean 'cbam'?"
    assert did_you_mean("SE", ["se"]) == " Did you mean 'se'?"
    assert did_you_mean("rd_ration", ["excitation", "rd_ratio"]) == " Did you mean 'rd_ratio'?"
    assert did_you_mean("ration", ["excitation", "rd_ratio"]) == " Did you mean 'rd_ratio' or 'excitation'?"
    assert did_you_mean("zzz", ["cbam", "das"]) == ""
