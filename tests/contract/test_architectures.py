"""Every promise of an architecture has networks that break it, and catches them for the right reason."""

import pytest
import torch
import torch.nn.functional as F
from timm.models import model_entrypoint
from torch import nn

from saccade.contract import ARCHITECTURE_PROMISES, check_architecture, examine_architecture
from saccade.errors import UserError
from saccade.models import create_host  # noqa: F401 (the import registers networks with timm)

SIZE = (3, 16, 12)


class Info:
    """``feature_info`` in the form of timm."""

    def __init__(self, claims):
        self.claims = claims

    def channels(self):
        return [channels for channels, _ in self.claims]

    def reduction(self):
        return [reduction for _, reduction in self.claims]


class Maps(nn.Module):
    """Feature maps in the form that timm's ``features_only`` returns them."""

    def __init__(self, network):
        super().__init__()
        self.network, self.feature_info = network, Info(network.claims)

    def forward(self, x):
        first = self.network.first(x)
        return [first, self.network.second(first.relu())]


class Right(nn.Module):
    """Keeps every promise; each breaker below changes one thing of it."""

    claims = ((4, 2), (8, 4))

    def __init__(self, num_classes=10, in_chans=3):
        super().__init__()
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, 8, 8
        self.first = nn.Conv2d(in_chans, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes):
        self.num_classes, like = num_classes, next(self.parameters())
        self.head = nn.Linear(8, num_classes, dtype=like.dtype) if num_classes else nn.Identity()

    def get_classifier(self):
        return self.head

    def forward_features(self, x):
        return F.gelu(self.norm(self.second(self.first(x).relu())))

    def forward_head(self, x, pre_logits=False):
        x = x.mean((2, 3))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Dense(nn.Module):
    """Keeps every promise that applies to dense networks."""

    def __init__(self, num_classes=10, in_chans=3):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(in_chans, 8, 3, 2, 1), nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        return F.interpolate(self.head(F.gelu(self.encoder(x))), x.shape[2:])


def build(cls):
    """Return a function that builds ``cls``, with ``features_only`` as timm has it."""

    def make(features_only=False, **options):
        network = cls(**options)
        return Maps(network) if features_only else network

    make.__name__, make.__qualname__, make.__module__ = f"make_{cls.__name__}", f"make_{cls.__name__}", __name__
    globals()[make.__name__] = make
    return make


class DividesOneImageByZero(Right):
    def forward(self, x):
        return super().forward(x) if self.training or len(x) > 1 else super().forward(x) / 0


class HasALayerOfOneSize(Right):
    def forward_features(self, x):
        y = super().forward_features(x)
        return y + self.norm.weight.sum() * torch.ones(4, 3, dtype=y.dtype)


class RefusesWithoutANumber(Right):
    def forward_features(self, x):
        if x.shape[2] != SIZE[1]:
            raise UserError("this size is refused")
        return super().forward_features(x)


class RefusesWithANumber(Right):
    """Right: what is refused is said with numbers."""

    def forward_features(self, x):
        if tuple(x.shape[2:]) != SIZE[1:]:
            raise UserError(f"images of 16×12 pixels are needed, found {x.shape[2]}×{x.shape[3]}")
        return super().forward_features(x)


class TakesColourAlone(Right):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, 3)


class HasTenClasses(Right):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(10 if num_classes else 0, in_chans)


class IgnoresTheLastImage(Right):
    def forward(self, x):
        return super().forward(
            x * torch.tensor([1.0] * (len(x) - 1) + [len(x) < 3], dtype=x.dtype)[:, None, None, None]
        )


class NormalisesOverTheBatch(Right):
    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x - x.mean(0), pre_logits)


class AddsToItsForward(Right):
    def forward(self, x):
        return super().forward(x) + 1


class StatesAnotherHiddenSize(Right):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.head_hidden_size = 16


class HasAnotherClassifier(Right):
    def get_classifier(self):
        return nn.Linear(8, self.num_classes, dtype=torch.float64)


class ForgetsTheNewNumber(Right):
    def reset_classifier(self, num_classes):
        super().reset_classifier(num_classes if not hasattr(self, "head") else self.head.out_features)


class KeepsItsHead(Right):
    def reset_classifier(self, num_classes):
        head = getattr(self, "head", None)
        super().reset_classifier(num_classes)
        if not num_classes and head is not None:
            self.head = head


class LosesItsDtype(Right):
    def reset_classifier(self, num_classes):
        super().reset_classifier(num_classes)
        self.head.float()


class StatesOtherChannels(Right):
    claims = ((4, 2), (16, 4))


class StatesAnotherReduction(Right):
    claims = ((4, 2), (8, 8))


class ChangesItsInput(Right):
    def forward_features(self, x):
        with torch.no_grad():
            x.clamp_(-1, 1)
        return super().forward_features(x)


class KeepsItsFeatures(Right):
    def forward_features(self, x):
        self.last = super().forward_features(x).detach()
        return super().forward_features(x)


class CountsItsCalls(Right):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.register_buffer("calls", torch.zeros(()))

    def forward_features(self, x):
        self.calls += 1
        return super().forward_features(x)


class DrawsInEval(Right):
    def forward_features(self, x):
        torch.rand(1)
        return super().forward_features(x)


class ReturnsSinglePrecision(Right):
    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x, pre_logits).float()


class CancelsDigits(Right):
    def forward_head(self, x, pre_logits=False):
        if not torch.is_autocast_enabled("cpu"):
            return super().forward_head(x, pre_logits)
        return super().forward_head((x.bfloat16() + 300).float() - 300, pre_logits)


class ReadsMemoryInOrder(Right):
    def forward_features(self, x):
        return super().forward_features(x.as_strided(x.shape, torch.empty(x.shape).stride()))


class HasADeadParameter(Right):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.scale = nn.Parameter(torch.ones(1))

    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x, pre_logits) + 0 * self.scale


class ClimbsTheLoss(Right):
    def forward_head(self, x, pre_logits=False):
        y = super().forward_head(x, pre_logits)
        return 2 * y.detach() - y


class CannotBePickled(Right):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.activation = lambda x: x


class KeepsItsDrawOutOfTheState(Right):
    """Copies carry the draw; a network that is built again draws another."""

    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(num_classes, in_chans)
        self.temperature = torch.rand(()).item() + 0.5

    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x * self.temperature, pre_logits)


class SeedsTheGenerator(Right):
    def __init__(self, num_classes=10, in_chans=3):
        torch.manual_seed(0)
        super().__init__(num_classes, in_chans)


class BranchesOnValues(Right):
    def forward_features(self, x):
        y = super().forward_features(x)
        return y if bool(y.mean() > -9) else y / 2


class BreaksTheGraphInTrain(Right):
    def forward_features(self, x):
        y = super().forward_features(x)
        return y if not self.training or bool(y.mean() > -9) else y / 2


class LoopsOverTheBatch(Right):
    def forward_features(self, x):
        return torch.cat([super(LoopsOverTheBatch, self).forward_features(image) for image in x.split(1)])


BROKEN = {
    DividesOneImageByZero: ("takes_any_batch", "in eval: the output has values that are not finite"),
    HasALayerOfOneSize: ("takes_other_sizes", "images of 24×12 are refused: RuntimeError"),
    RefusesWithoutANumber: ("takes_other_sizes", "images of 24×12 are refused, without a number"),
    TakesColourAlone: ("takes_gray_images", "built with in_chans = 1: RuntimeError"),
    HasTenClasses: ("takes_any_classes", "built with 1 classes: (2, 3, 16, 12) comes out as (2, 10), not (2, 1)"),
    IgnoresTheLastImage: ("looks_at_each_image", "the output for image 3 of 3 does not change"),
    NormalisesOverTheBatch: ("treats_images_apart", "an image alone and in a batch of 3 differ"),
    AddsToItsForward: ("splits_into_features_and_head", "forward differs from forward_head(forward_features(x)) by"),
    StatesAnotherHiddenSize: ("splits_into_features_and_head", "gives (2, 8); head_hidden_size says 16"),
    HasAnotherClassifier: ("splits_into_features_and_head", "get_classifier() of pre_logits differs from forward by"),
    ForgetsTheNewNumber: ("resets_its_classifier", "after reset_classifier(12): (2, 3, 16, 12) comes out as (2, 10)"),
    KeepsItsHead: ("resets_its_classifier", "after reset_classifier(0) the output differs from pre_logits by inf"),
    LosesItsDtype: ("resets_its_classifier", "must have the same dtype"),
    StatesOtherChannels: ("gives_feature_maps", "map 1 has 8 channels; feature_info says 16"),
    StatesAnotherReduction: ("gives_feature_maps", "map 1 has sides (4, 3) for images of (16, 12)"),
    ChangesItsInput: ("leaves_its_input_alone", "changes its input in eval"),
    KeepsItsFeatures: ("keeps_nothing_between_calls", "leaves a tensor in last"),
    CountsItsCalls: ("answers_the_same_twice", "changes calls"),
    DrawsInEval: ("leaves_the_generator_alone", "draws from the global generator"),
    ReturnsSinglePrecision: ("works_in_double_precision", "float64 images come out as torch.float32 in eval"),
    CancelsDigits: ("agrees_in_bfloat16", "the output under autocast is off by"),
    ReadsMemoryInOrder: ("works_in_channels_last", "the output in channels_last differs by"),
    HasADeadParameter: ("reaches_every_parameter", "gradient of scale is zero"),
    ClimbsTheLoss: ("learns_a_batch", "5 steps of SGD do not lower the loss of four images"),
    CannotBePickled: ("survives_copying", "pickle"),
    KeepsItsDrawOutOfTheState: ("survives_saving", "the loaded network gives another output"),
    SeedsTheGenerator: ("is_drawn_by_the_seed", "the constructor seeds the global generator"),
    BranchesOnValues: ("compiles_in_one_graph", "torch.compile in eval"),
    BreaksTheGraphInTrain: ("compiles_in_one_graph", "torch.compile in train"),
    LoopsOverTheBatch: ("exports_for_any_batch", "torch.export"),
}
SHARED = {
    DividesOneImageByZero: ["treats_images_apart"],
    IgnoresTheLastImage: ["treats_images_apart"],
    AddsToItsForward: ["resets_its_classifier"],
    ReturnsSinglePrecision: ["splits_into_features_and_head"],
    KeepsItsDrawOutOfTheState: ["survives_copying"],
}
"""Second promises that a fault breaks too; all other breakers keep every other promise."""
SLOW = {"compiles_in_one_graph", "exports_for_any_batch"}
NAMES = [promise.__name__ for promise in ARCHITECTURE_PROMISES]


def test_a_right_network_keeps_every_promise():
    records = check_architecture(build(Right), input_size=SIZE)
    assert [record.promise for record in records] == NAMES
    assert [record for record in records if record.status != "passed"] == []


def test_a_dense_network_keeps_what_applies():
    records = check_architecture(Dense, input_size=SIZE)
    skipped = {record.promise: record.reason for record in records if record.status != "passed"}
    assert skipped == {
        "splits_into_features_and_head": "the network has no forward_features",
        "resets_its_classifier": "the network has no reset_classifier",
        "gives_feature_maps": "features_only is not an argument",
    }


def test_a_size_may_be_refused_with_numbers():
    tried = [promise for promise in ARCHITECTURE_PROMISES if promise.__name__ == "takes_other_sizes"]
    (record,) = examine_architecture(build(RefusesWithANumber), input_size=SIZE, promises=tried)
    assert record.status == "passed"


def test_detectors_are_refused():
    with pytest.raises(UserError, match="fcos is a detector"):
        check_architecture(model_entrypoint("fcos"))


def test_every_promise_has_a_breaker():
    assert {promise for promise, _ in BROKEN.values()} == set(NAMES)


@pytest.mark.parametrize("network", BROKEN, ids=lambda network: network.__name__)
def test_the_breaker_is_caught_and_breaks_nothing_else(network):
    broken, reason = BROKEN[network]
    tried = [promise for promise in ARCHITECTURE_PROMISES if promise.__name__ == broken or promise.__name__ not in SLOW]
    records = {
        record.promise: record for record in examine_architecture(build(network), input_size=SIZE, promises=tried)
    }
    assert records[broken].status == "failed"
    assert reason in records[broken].reason
    assert "\n" not in records[broken].reason
    others = [name for name, record in records.items() if record.status != "passed" and name != broken]
    assert others == SHARED.get(network, []), [records[name].reason for name in others]
