"""The contract as its users call it, and every mechanism of the package under it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import saccade
from saccade import catalog
from saccade.bases import BatchNorm2d
from saccade.contract import PROMISES, Record, check, examine
from saccade.contract.harness import Case
from saccade.contract.shapes import CHANNELS
from saccade.errors import UserError
from saccade.specs import Spec
from saccade.stage_outputs import PreviousStage as Previous

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


class Widening(Doubled):
    def forward(self, x):
        return 2 * x * torch.ones(x.shape[-1], dtype=torch.float32, device=x.device)


def _fallen(records, spec):
    """Records of what does not hold or should have been tried: only a fact that does not exist is left out."""
    absent = set() if spec.gate else {"keeps_its_gate_in_range"}
    return [r for r in records if r.status != ("skipped" if r.promise in absent else "passed")]


@pytest.mark.parametrize("name", catalog.list_mechanisms())
def test_every_mechanism_keeps_every_promise(name):
    spec = catalog.spec(name)
    records = check(catalog.load(name), spec)
    assert [r.promise for r in records] == NAMES
    assert _fallen(records, spec) == []
    assert spec.gate or spec.kind != "gate"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("emca", {"att": "se"}),
        ("gc", {"fuse_scale": True}),
        ("gc", {"fuse_scale": True, "fuse_add": False}),
        ("gated_channel", {"mode": "l1"}),
        ("ge", {"extent": 4}),
        ("ge", {"extent": 2, "use_mlp": True, "bias": True}),
        ("ge", {"extra_params": False}),
        ("ge", {"extra_params": False, "extent": 2, "size": (6, 6)}),
        ("dat", {"position": "log"}),
        ("gsop", {"variant": "position"}),
        ("polarized", {"variant": "official", "layout": "sequential"}),
        ("nl", {"instantiation": "dot_product"}),
        ("nl", {"pool": True}),
    ],
)
def test_variants_with_graphs_of_their_own_keep_every_promise(name, options):
    spec = catalog.spec(name)
    assert _fallen(check(catalog.load(name), spec, options=options), spec) == []


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [
        ("se", 64, {"bias": False}),
        ("emca", 64, {"kernel_size": 7, "shared": True}),
        ("bam", 64, {"variant": "paper"}),
        ("sa", 64, {"groups": 4}),
        ("triplet", 64, {"no_spatial": True}),
        ("scse", 64, {"combine": "max"}),
        ("ge", 64, {"use_mlp": True}),
        ("dat", 64, {"position": "none", "offset_range": 2.0}),
        ("gala", 64, {"variant": "paper"}),
        ("stn", 64, {"transform": "attention"}),
        ("vt", 64, {"scaled": True}),
        ("dcn2", 64, {"scale": 2.0, "bias": True}),
        ("sk", 64, {"variant": "fair"}),
        ("mhsa", 64, {"scale_pos_embed": False, "bias": True}),
        ("cc", 64, {"recurrence": 1}),
        ("gsop", 64, {"stride": 1}),
        ("polarized", 64, {"variant": "official"}),
        ("polarized", 64, {"layout": "sequential"}),
        ("danet", 64, {"position": False}),
        ("danet", 64, {"channel": False}),
        ("dra", 64, {"channel": False}),
        ("dra", 64, {"position": False}),
        ("ge", 64, {"extra_params": False, "use_mlp": True}),
        ("a2", 64, {"norm": True}),
        ("se", 16, {}),  # one hidden unit, off in every second draw
        ("se", 31, {"rd_ratio": 0.25}),
        ("dcn1", 6, {"offset_groups": 2, "groups": 2, "kernel_size": 5}),
        ("dcn1", 1, {"kernel_size": 2, "dilation": 2}),
        ("dcn2", 8, {"offset_groups": 4, "groups": 8, "dilation": 3, "bias": True}),
        ("sasa", 12, {"num_heads": 2, "window": 5, "bias": True}),
        ("sasa", 2, {"num_heads": 1, "window": 3, "kernel_size": 5}),
        ("sasa", 12, {"num_heads": 2, "window": 3, "position": "relative_only"}),
        ("sasa", 12, {"num_heads": 2, "window": 3, "position": "absolute"}),
        ("sasa_stem", 12, {"num_heads": 2, "window": 3, "mixtures": 2, "bias": True}),
        ("sasa_stem", 2, {"num_heads": 1, "window": 5, "mixtures": 1, "kernel_size": 3}),
        ("sk", 12, {"branch_groups": 4, "groups": 4, "kernel_size": 5, "bias": True}),
        ("sk", 24, {"variant": "fair", "branch_groups": 8, "groups": 2, "rd_ratio": 0.2, "dilation": 2}),
        ("mhsa", 7, {"num_heads": 1, "dilation": 2, "size": (3, 4)}),
        ("eca", 1, {}),
        ("eca", 64, {"kernel_size": 9}),
        ("cbam", 17, {"rd_ratio": 0.5, "spatial_kernel_size": 3}),
        ("das", 5, {}),
        ("das", 13, {"alpha": 0.5}),
        ("bam", 17, {"rd_ratio": 0.5, "dilation": 2}),
        ("coord", 7, {"rd_ratio": 0.25}),
        ("gc", 30, {"rd_ratio": 0.5}),
        ("sa", 2, {}),
        ("self_attention", 9, {}),
        ("self_attention", 16, {"rd_ratio": 0.5}),
        ("simam", 3, {"e_lambda": 0.01}),
        ("triplet", 5, {"kernel_size": 3}),
        ("srm", 1, {"eps": 0.1}),
        ("sge", 12, {"groups": 4}),
        ("sge", 7, {}),
        ("scse", 17, {"rd_ratio": 0.5, "combine": "max"}),
        ("gated_channel", 3, {"mode": "l1", "eps": 0.1}),
        ("ge", 5, {"size": (4, 3)}),
        ("ge", 17, {"use_mlp": True, "rd_ratio": 0.5, "bias": True, "size": (1, 6)}),
        ("dat", 6, {"num_heads": 2, "groups": 1, "stride": 1, "kernel_size": 2, "size": (3, 4)}),
        ("dat", 16, {"num_heads": 4, "groups": 4, "stride": 3, "kernel_size": 4, "offset_range": 1.5, "size": (1, 5)}),
        ("gala", 5, {}),
        ("lka", 3, {"kernel_size": 9, "dilation": 2}),
        ("ofdet", 17, {"rd_ratio": 0.5, "kernel_size": 3}),
        ("stn", 3, {"hidden": 5, "regions": 2}),
        ("vt", 7, {"tokens": 3}),
        ("nl", 3, {}),
        ("nl", 7, {"rd_ratio": 0.9, "instantiation": "dot_product"}),
        ("danet", 9, {}),
        ("danet", 5, {"rd_ratio": 0.5}),
        ("dra", 17, {}),
        ("dra", 5, {"rd_ratio": 0.5, "center_ratio": 0.5}),
        ("cc", 9, {}),
        ("cc", 7, {"rd_ratio": 0.5, "recurrence": 3}),
        ("gsop", 13, {"dim": 5}),
        ("gsop", 3, {"dim": 3, "stride": 3}),
        ("gsop", 5, {"dim": 64, "variant": "position"}),
        ("mpm", 10, {"fine": 3, "coarse": 2}),
        ("polarized", 5, {}),
        ("polarized", 17, {"layout": "sequential", "variant": "official"}),
        ("spm", 5, {"kernel_size": 5}),
        ("a2", 3, {"descriptors": 2}),
        ("a2", 7, {"rd_ratio": 0.3, "descriptors": 5}),
    ],
)
def test_mechanisms_keep_their_promises_with_options_and_awkward_channels(name, channels, options):
    spec = catalog.spec(name)
    # These graphs have other sizes than the defaults', or a part of their steps, and graphs take seconds.
    graphs = {"compiles_whole", "exports_for_any_size"}
    tried = [promise for promise in PROMISES if promise.__name__ not in graphs]
    records = list(examine(catalog.load(name), spec, channels=channels, options=options, promises=tried))
    assert len(records) == len(PROMISES) - 2
    assert _fallen(records, spec) == []


def test_both_sides_of_the_limits_are_among_the_channels_that_are_tried():
    """257 is prime, 8 is thinner than a sixteenth allows: mechanisms refuse some of the sweep, and all take some."""
    cases = {name: Case(catalog.load(name), catalog.spec(name), 64) for name in catalog.list_mechanisms()}
    taken = {name: [c for c in CHANNELS if case.refusal(c) is None] for name, case in cases.items()}
    assert taken["se"] == [16, 64, 257]
    assert taken["sa"] == [8, 16, 64]
    assert taken["eca"] == list(CHANNELS)
    assert [name for name, channels in taken.items() if 64 not in channels] == []


def test_a_stranger_is_tried_on_all_that_needs_no_facts():
    records = {r.promise: r for r in check(Doubled)}
    assert {name for name, r in records.items() if r.status == "skipped"} == ABOUT_FACTS
    assert {records[name].reason for name in ABOUT_FACTS} == {"there is no SPEC"}
    assert {r.status for name, r in records.items() if name not in ABOUT_FACTS} == {"passed"}


def test_make_may_be_any_callable():
    assert {r.status for r in check(lambda channels: catalog.create("se", channels))} == {"passed", "skipped"}


def test_a_fact_over_options_that_make_does_not_show_is_not_examined():
    def silent(channels):
        return catalog.load("se")(channels)

    records = {r.promise: r for r in check(silent, catalog.spec("se"))}
    for promise, reason in (
        ("has_the_parameters_it_states", "parameters needs bias, rd_ratio"),
        ("keeps_its_gate_in_range", "gate needs excitation"),
    ):
        assert (records[promise].status, records[promise].reason) == ("skipped", reason)
    assert records["refuses_what_it_states"].status == "passed"
    assert records["commutes_as_stated"].status == "passed"


def test_a_fact_in_words_without_a_function_is_not_examined():
    facts = replace(BOUND, needs=(), neutral="with luck", gate="(0, 1) with luck", equivariant="with luck")
    records = {r.promise: r for r in check(Doubled, facts)}
    for promise, fact in (
        ("is_neutral_as_stated", "neutral"), ("learns_from_a_neutral_start", "neutral"),
        ("keeps_its_gate_in_range", "gate"), ("commutes_as_stated", "equivariant"),
    ):  # fmt: skip
        assert records[promise] == Record(promise, "skipped", f"its module defines no function {fact}")


def test_a_known_failure_is_skipped_with_its_reason():
    broken = "keeps_dtype"
    assert [r.promise for r in check(Widening) if r.status == "failed"] == [broken]
    known = {r.promise: r for r in check(Widening, known_failures={broken: "shown in the demo"})}
    assert known[broken] == Record(broken, "skipped", "known failure: shown in the demo")
    assert "failed" not in {r.status for r in known.values()}


def test_a_known_failure_that_holds_fails():
    records = {r.promise: r for r in check(Doubled, known_failures={"keeps_shape": "once upon a time"})}
    assert records["keeps_shape"].status == "failed"
    assert records["keeps_shape"].reason == "listed as a known failure (once upon a time), but the promise holds"


def test_a_known_failure_of_no_promise_is_refused():
    with pytest.raises(UserError, match="Did you mean 'keeps_shape'"):
        check(Doubled, known_failures={"keep_shape": "misspelt"})


def test_channels_that_spec_refuses_are_refused_with_numbers():
    with pytest.raises(UserError, match=r"channels \* rd_ratio must be at least 1, got 3 \* 0.0625"):
        check(catalog.load("se"), catalog.spec("se"), channels=3)


def test_a_class_that_cannot_be_built_fails_without_a_traceback():
    class Unbuildable(nn.Module):
        def __init__(self, channels):
            raise RuntimeError("no such luck")

    records = check(Unbuildable)
    where = "RuntimeError: no such luck (test_init.py, line"
    assert [r.reason for r in records if r.status == "failed" and where not in r.reason] == []
    assert not any(r.status == "passed" for r in records)


def test_the_generator_and_the_grad_mode_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        first = check(catalog.load("cbam"), catalog.spec("cbam"))
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    torch.manual_seed(6)
    assert check(catalog.load("cbam"), catalog.spec("cbam")) == first  # and what it finds does not depend on the seed


def test_promises_are_tried_one_by_one_as_they_are_asked_for():
    built = []

    def make(channels):
        built.append(channels)
        return Doubled(channels)

    records = examine(make)
    assert built == []
    assert next(records) == Record("keeps_shape", "passed")
    assert len(built) == 1
    chosen = [promise for promise in PROMISES if promise.__name__ in ("keeps_dtype", "survives_copying")]
    assert [r.promise for r in examine(make, promises=chosen)] == ["keeps_dtype", "survives_copying"]


def test_a_user_s_mistake_is_told_before_the_first_record():
    with pytest.raises(UserError, match="no promise is called"):
        examine(Doubled, known_failures={"keep_shape": "misspelt"})


class BoundToItsSize(nn.Module):
    """A weight for every place."""

    def __init__(self, channels, size=(6, 5)):
        super().__init__()
        self.places = nn.Parameter(torch.randn(size))

    def forward(self, x):
        return x * self.places.to(x.dtype)


BOUND = Spec(title="bound", kind="transform", evidence="reading", needs=("size",))


@pytest.mark.parametrize("options", [{}, {"size": (3, 4)}, {"size": [5, 5]}])
def test_what_needs_the_size_is_tried_at_that_size(options):
    records = {r.promise: r for r in check(BoundToItsSize, BOUND, options=options)}
    assert {r.reason for r in records.values() if r.status == "failed"} == set()
    assert {name for name, r in records.items() if r.status == "skipped"} == {
        "has_the_parameters_it_states", "refuses_what_it_states", "keeps_its_gate_in_range",
    }  # fmt: skip


def test_what_needs_the_size_and_does_not_say_so_is_caught():
    records = {r.promise: r for r in check(BoundToItsSize, replace(BOUND, needs=()))}
    assert records["keeps_shape"].status == "failed"


class HearsOne(Doubled):
    """It cannot do without a stage before."""

    def __init__(self, channels, previous=1):
        super().__init__(channels)
        self.previous = Previous(previous)

    def forward(self, x):
        return x + sum(self.previous(x.mean((2, 3))), x.new_zeros(()))


def test_what_reads_another_stage_is_tried_as_it_stands_alone():
    facts = replace(BOUND, needs=("previous stage",))
    assert check(Doubled, facts) == check(Doubled, replace(BOUND, needs=()))
    tried = [promise for promise in PROMISES if promise.__name__ == "keeps_shape"]
    (record,) = examine(HearsOne, facts, promises=tried)
    assert record.status == "failed"
    assert "the mechanism is not in a host" in record.reason
    (record,) = examine(HearsOne, facts, options={"previous": 0}, promises=tried)
    assert record.status == "passed"


class Frozen(Doubled):
    """A parameter that is not learnt is none that must learn."""

    def __init__(self, channels):
        super().__init__(channels)
        self.scale = nn.Parameter(torch.full((1,), 3.0), requires_grad=False)

    def forward(self, x):
        return self.scale.to(x.dtype) * x


def test_a_frozen_parameter_need_not_learn():
    assert {r.promise for r in check(Frozen) if r.status != "passed"} == ABOUT_FACTS


class Nothing(Doubled):
    def forward(self, x):
        return x * 1


def test_what_has_nothing_to_learn_is_not_examined():
    neutral = replace(BOUND, needs=(), neutral=True)
    records = {r.promise: r for r in check(Nothing, neutral)}
    assert records["learns_from_a_neutral_start"].status == "skipped"
    assert records["is_neutral_as_stated"].status == "passed"
    silent = {r.promise: r for r in check(Nothing)}["learns_from_a_neutral_start"]
    assert silent.status == "failed"
    assert "not changed by 5 steps: the plug's a; the module starts as the identity" in silent.reason


class BiasBeforeANorm(Doubled):
    """What a batch norm subtracts cannot learn in training; its author's, not ours, to remove."""

    def __init__(self, channels):
        super().__init__(channels)
        self.conv, self.bn = nn.Conv2d(channels, channels, 1), BatchNorm2d(channels)

    def forward(self, x):
        return x + self.bn(self.conv(x)).to(x.dtype)


def test_a_bias_in_front_of_a_batch_norm_is_let_pass():
    records = {r.promise: r for r in check(BiasBeforeANorm)}
    assert records["learns_from_a_neutral_start"] == Record("learns_from_a_neutral_start", "passed")


class Loud(Doubled):
    """A choice by value, at which torch prints and logs whole graphs."""

    def forward(self, x):
        return 2 * x if x.mean() > 0 else 3 * x


def test_what_torch_prints_of_a_failure_is_not_shown(capfd):
    failed = {r.promise: r.reason for r in check(Loud) if r.status == "failed"}
    assert failed.keys() >= {"compiles_whole", "exports_for_any_size"}
    reasons = [failed[name] for name in ("compiles_whole", "exports_for_any_size")]
    assert [reason for reason in reasons if "torch.where" not in reason] == []
    assert capfd.readouterr() == ("", "")


def test_check_is_public():
    assert saccade.check is check
