"""Section of the constant gates: words of the readings, what is left out, and the reasons."""

from dataclasses import replace

import pytest
from made_results import TOP1, context, made

from saccade.explanation.held_gates import ALL_GATES, GateFacts
from saccade.study.gate_costs import ArmGates, GateCost
from saccade.study.report.page import template_environment
from saccade.study.report.sections.constant_gates import ConstantGatesSection
from saccade.study.stats import analyse

SCORES = {"none": [70.0, 71.0, 69.0], "se": [72.0, 70.0, 74.0]}


def _gate(path, reading, shape=(8, 1, 1), constant=False, held=(71.0, 70.0, 72.0)):
    difference = analyse({"own": SCORES["se"], "held": held}, metric=TOP1, baseline="own").differences[0]
    facts = None if path == ALL_GATES else GateFacts(shape, 0.125, 0.5, 0.25, 0.03125, constant)
    return GateCost(path, facts, difference, difference, reading)


def _render(*arms, error=None):
    """Return the content of the section, and its markup."""
    made_context = replace(context(made(SCORES)), gates=arms, gates_error=error)
    content = ConstantGatesSection().content(made_context)
    template = template_environment().from_string(ConstantGatesSection.template)
    return content, None if content is None else template.render(content)


@pytest.mark.parametrize(
    ("gate", "word", "kind"),
    [
        (_gate("g", "constant"), "could be folded", "8 channels"),
        (_gate("g", "constant", (1, 5, 4)), "could be constant", "5×4"),
        (_gate("g", "constant", (8, 5, 4), True), "the same for every image", "8 channels, 5×4"),
        (_gate("g", "depends on the image", (1, 1, 1)), "depends on the image", "one value"),
        (_gate("g", "not decided"), "not decided", "8 channels"),
    ],
)
def test_words(gate, word, kind):
    content, markup = _render(ArmGates("se", (0, 1, 2), tuple(SCORES["se"]), 40, 30, 1, (gate,)))
    (row,) = content["arms"][0]["rows"]
    assert (row["word"], row["kind"], row["range"], row["moments"]) == (word, kind, "0.12 to 0.50", "0.25, 0.031")
    assert row["held"]["difference"] == "−1.00"
    assert row["held"]["seeds"] == "seeds −1.0, 0.0, −2.0"
    assert word in markup
    assert "The gate held constant: −1.00\u202fpoints [" in markup


def test_several_gates_and_skipped_ones():
    gates = (_gate(ALL_GATES, "depends on the image"), _gate("a", "constant"), _gate("b<", "not decided"))
    arm = ArmGates("se", (0, 1, 2), tuple(SCORES["se"]), 40, 30, 5, gates, {"c": "why", "d": "why"})
    content, markup = _render(arm)
    assert content["arms"][0]["summary"].endswith(
        "; they depend on the image. Of 2 of the 5 gates changed alone, 1 could be constant."
    )
    assert content["arms"][0]["rows"][0]["kind"] is None
    assert "Not changed: c, d (why)." in markup
    assert "<code>b&lt;</code>" in markup
    assert "top-1 72.00\u202f% on 40 of 0 test images" in markup  # the images are not open here


def test_reasons():
    assert _render() == (None, None)
    assert "Not measured: it is &lt;gone&gt;" in _render(error="it is <gone>")[1]
    markup = _render(ArmGates("se", (), seconds=125.0))[1]
    assert "this one needs about 2\u202fmin 05\u202fs" in markup
    assert 'constant_gates("s")' in markup.replace("&#34;", '"')
