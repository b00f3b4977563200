"""The contract as its users call it, and every mechanism of the package under it."""

import pytest
import torch
from torch import nn

import saccade
from saccade import catalog
from saccade.contract import PROMISES, Record, check
from saccade.errors import UserError

NAMES = [promise.__name__ for promise in PROMISES]
ABOUT_FACTS = {
    "has_the_parameters_it_states",
    "refuses_what_it_states",
    "keeps_its_gate_in_range",
    "is_neutral_as_stated",
    "commutes_as_stated",
}


class Doubled(nn.Module):
    """A stranger's module: no SPEC, no parameters, no base class of ours."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return 2 * x


class Leaky(Doubled):
    def forward(self, x):
        self.last = 2 * x
        return self.last


@pytest.mark.parametrize("name", catalog.list_mechanisms())
def test_every_mechanism_keeps_every_promise(name):
    records = check(catalog.load(name), catalog.spec(name))
    assert [r.promise for r in records] == NAMES
    assert [r for r in records if r.status != "passed"] == []


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("se", 31, {"rd_ratio": 0.25}),
        ("se", 48, {"bias": False}),
        ("eca", 7, {}),
        ("eca", 64, {"kernel_size": 9}),
        ("cbam", 17, {"rd_ratio": 0.5, "spatial_kernel_size": 3}),
        ("das", 5, {}),
        ("das", 13, {"alpha": 0.5}),
    ],
)
def test_mechanisms_keep_their_promises_with_options_and_awkward_channels(name, channels, options):
    records = check(catalog.load(name), catalog.spec(name), channels=channels, options=options)
    assert [r for r in records if r.status != "passed"] == []


def test_a_stranger_is_tried_on_all_that_needs_no_facts():
    records = {r.promise: r for r in check(Doubled)}
    assert {name for name, r in records.items() if r.status == "skipped"} == ABOUT_FACTS
    assert {records[name].reason for name in ABOUT_FACTS} == {"there is no SPEC"}
    assert {r.status for name, r in records.items() if name not in ABOUT_FACTS} == {"passed"}


def test_make_may_be_any_callable():
    assert {r.status for r in check(lambda channels: catalog.create("se", channels))} == {"passed", "skipped"}


def test_a_formula_over_options_that_make_does_not_show_is_not_examined():
    records = {r.promise: r for r in check(lambda channels: catalog.create("se", channels), catalog.spec("se"))}
    assert records["has_the_parameters_it_states"].status == "skipped"
    assert "SPEC uses bias, rd_ratio" in records["has_the_parameters_it_states"].reason
    assert records["refuses_what_it_states"].status == "skipped"
    assert records["commutes_as_stated"].status == "passed"


def test_a_known_failure_is_skipped_with_its_reason():
    broken = "keeps_nothing_between_calls"
    assert [r.promise for r in check(Leaky) if r.status == "failed"] == [broken]
    known = {r.promise: r for r in check(Leaky, known_failures={broken: "shown in the demo"})}
    assert known[broken] == Record(broken, "skipped", "known failure: shown in the demo")
    assert "failed" not in {r.status for r in known.values()}


def test_a_known_failure_that_holds_fails():
    records = {r.promise: r for r in check(Doubled, known_failures={"keeps_shape": "once upon a time"})}
    assert records["keeps_shape"].status == "failed"
    assert records["keeps_shape"].reason == "listed as a known failure (once upon a time), and it holds"


def test_a_known_failure_of_no_promise_is_refused():
    with pytest.raises(UserError, match="Did you mean 'keeps_shape'"):
        check(Doubled, known_failures={"keep_shape": "misspelt"})


def test_channels_that_spec_refuses_are_refused_with_numbers():
    with pytest.raises(UserError, match=r"needs channels \* rd_ratio >= 1; found channels = 3, rd_ratio = 0.0625"):
        check(catalog.load("se"), catalog.spec("se"), channels=3)


def test_a_class_that_cannot_be_built_fails_without_a_traceback():
    class Unbuildable(nn.Module):
        def __init__(self, channels):
            raise RuntimeError("no such luck")

    records = check(Unbuildable)
    assert {r.reason for r in records if r.status == "failed"} == {"RuntimeError: no such luck"}
    assert not any(r.status == "passed" for r in records)


def test_the_generator_and_the_grad_mode_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        first = check(catalog.load("das"), catalog.spec("das"))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert check(catalog.load("das"), catalog.spec("das")) == first  # and what it finds does not depend on the seed


def test_check_is_public():
    assert saccade.check is check
