"""Hosts built by a user function: arguments, weights and errors."""

import copy
import functools
import logging
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

import saccade
from saccade import builders
from saccade.data import open_data
from saccade.errors import UserError
from saccade.models import create_host
from saccade.recipe import Model, Recipe
from saccade.tasks.classify import Classify
from saccade.tasks.segment import Segment
from saccade.training import build

DATA = Recipe().with_overrides(
    {"data.size": 32, "data.train_images": 20, "data.test_images": 10, "attention.mechanism": "se:rd_ratio=0.5"}
)
MASKS = DATA.with_overrides({"task.name": "segment"})


class Net(nn.Module):
    """A network of two convolutions; ``head`` is what it returns of the pooled map."""

    def __init__(self, num_classes=10, in_chans=1, head=None):
        super().__init__()
        self.first, self.second = nn.Conv2d(in_chans, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.norm, self.fc, self.head = nn.BatchNorm2d(8), nn.Linear(16, num_classes), head

    def forward(self, x):
        logits = self.fc(self.second(self.norm(self.first(x)).relu()).mean((2, 3)))
        return logits if self.head is None else self.head(self, logits)


class Dense(nn.Module):
    def __init__(self, num_classes, in_chans, up=True, head=None):
        super().__init__()
        self.body, self.fc = nn.Conv2d(in_chans, 8, 3, 2, 1), nn.Conv2d(8, num_classes, 1)
        self.up, self.head = up, head

    def forward(self, x):
        maps = self.fc(self.body(x).relu())
        maps = nn.functional.interpolate(maps, x.shape[2:]) if self.up else maps
        return maps if self.head is None else self.head(self, maps)


def model(builder, **more):
    name, code = builders.identify(builder)
    return Model(name=name, code=code, **more)


def network(builder, recipe=DATA, **more):
    """The network of a run, checked and plugged as a training does it."""
    recipe = recipe.with_overrides({"model": model(builder, **more).model_dump()})
    kind = {"auto": Classify, "segment": Segment}[recipe.task.name]
    return build(kind(recipe, open_data(recipe.data, kind.target)))


def test_it_is_called_with_what_its_signature_takes():
    called = []

    def kept(**keywords):
        called.append(keywords)
        return nn.Conv2d(1, 1, 1)

    def both(num_classes, in_chans):
        return kept(num_classes=num_classes, in_chans=in_chans)

    def others(classes, *, channels=3, width=8):
        return kept(classes=classes, channels=channels, width=width)

    def nothing():
        return kept()

    for builder, channels, options in (
        (both, 1, {}), (others, 1, {"width": 4}), (nothing, 1, {}), (kept, 3, {"depth": 2}), (kept, 1, {}),
        (functools.partial(others, width=5), 3, {}),
    ):  # fmt: skip
        create_host(model(builder, options=options), 7, channels)
    assert called == [
        {"num_classes": 7, "in_chans": 1}, {"classes": 7, "channels": 1, "width": 4}, {},
        {"num_classes": 7, "depth": 2}, {"num_classes": 7, "in_chans": 1}, {"classes": 7, "channels": 3, "width": 5},
    ]  # fmt: skip


def test_pretrained_reaches_a_function_that_takes_it():
    called = []

    def load(num_classes, pretrained=False):
        called.append(pretrained)
        return Net(num_classes)

    for pretrained in (False, True):
        create_host(model(load, pretrained=pretrained), 7, 1)
    create_host(model(Net, pretrained=True), 7, 1)  # it brings its weights without being asked
    assert called == [False, True]


def test_the_seed_decides_the_weights_and_all_arms_share_them():
    plain = DATA.with_overrides({"attention.mechanism": "none"})
    one, plugged, other = (
        network(Net, recipe).state_dict() for recipe in (plain, DATA, plain.with_overrides({"training.seed": 1}))
    )
    for key, value in one.items():
        torch.testing.assert_close(plugged[key], value, rtol=0, atol=0)
    assert len(plugged) > len(one)
    assert not torch.equal(one["first.weight"], other["first.weight"])


def test_networks_of_torchvision_need_no_wrapper():
    name, code = builders.identify("torchvision:resnet18")
    assert name == "torchvision.models:resnet18"
    host = create_host(Model(name=name, code=code), 7, 3)
    assert host(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def _probabilities(net, logits):
    return logits.softmax(1)


BROKEN = {
    "wrong classes": (lambda: Net(5), "gives shape (2, 5) for 2 images; logits of shape (2, 10) are needed; the data "
                      "have 10 classes: add an argument num_classes to the function"),
    "wrong channels": (lambda num_classes: Net(num_classes, 3), "to have 3 channels, but got 1 channels instead; the "
                       "images have 1 channels: add an argument in_chans to the function"),
    "softmax": (lambda: Net(head=_probabilities), "gives probabilities, which add up to 1 over the classes; logits are "
                "needed: remove the softmax"),
    "tuple": (lambda: Net(head=lambda net, x: (x, x)), "gives a tuple of 2; one tensor of logits of shape (2, 10)"),
    "dict": (lambda: Net(head=lambda net, x: {"out": x}), "gives a dict with 'out'; one tensor of logits"),
    "tuple in training": (lambda: Net(head=lambda net, x: (x, x) if net.training else x), "in training mode, gives a "
                          "tuple of 2; one tensor of logits of shape (2, 10) is needed. Build it without its"),
    "fails in training": (lambda: Net(head=lambda net, x: x if not net.training else 1 / 0), "(channels, height, "
                          "width), in training mode: division by zero"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "1.weight has no shape yet; run the network once"),
    "no network": (lambda: 3, "returns a int; a torch.nn.Module is needed"),
    "an error of its own": (lambda: int("width"), "ValueError: invalid literal for int()"),
    "an argument too many": (lambda num_classes, k: Net(), "needs a value for 'k': give it with --set model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract_is_explained(name):
    builder, words = BROKEN[name]
    with pytest.raises(UserError) as refused:
        network(builder)
    assert str(refused.value).startswith(f"model {__name__}:<lambda>")
    assert words in str(refused.value)


MASKS_BROKEN = {
    "logits of the image": (Net, "gives shape (2, 11) for 2 images; logits of shape (2, 11, 32, 32) are needed"),
    "smaller maps": (lambda num_classes, in_chans: Dense(num_classes, in_chans, up=False),
                     "gives shape (2, 11, 16, 16) for 2 images; logits of shape (2, 11, 32, 32) are needed"),
    "softmax": (lambda num_classes, in_chans: Dense(num_classes, in_chans, head=_probabilities), "gives probabilities"),
    "dict": (lambda num_classes, in_chans: Dense(num_classes, in_chans, head=lambda net, x: OrderedDict(out=x, aux=x)),
             "gives a OrderedDict with 'out', 'aux'; one tensor of logits of shape (2, 11, 32, 32) is needed"),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS_BROKEN)
def test_the_contract_of_masks(name):
    builder, words = MASKS_BROKEN[name]
    with pytest.raises(UserError) as refused:
        network(builder, MASKS)
    assert words in str(refused.value)


def test_valid_networks_are_built_and_plugged():
    for builder, recipe in ((Net, DATA), (Dense, MASKS)):
        plugged = network(builder, recipe)
        assert len(saccade.plugs(plugged)) > 0
        assert plugged.training, "the trial changes no mode"
    host = network(lambda num_classes, in_chans: Net(num_classes, in_chans, lambda net, x: x.log_softmax(1)))
    assert isinstance(host, Net), "the cross-entropy of log-probabilities is that of logits"


def test_a_network_with_its_own_loss_may_return_anything_in_training():
    class Own(Net):
        def training_loss(self, images, targets):
            return {"own": self(images)[0].sum()}

    made = network(lambda: Own(head=lambda net, x: (x, x) if net.training else x))
    assert isinstance(made, Own)


def test_googlenet_with_and_without_its_auxiliary_heads():
    names = {"init_weights": False, "transform_input": False}
    recipe = DATA.with_overrides({"attention.mechanism": "none"})

    def make(num_classes, aux_logits):
        net = torchvision.models.googlenet(num_classes=num_classes, aux_logits=aux_logits, **names)
        net.conv1.conv = nn.Conv2d(1, 64, 7, 2, 3)
        return net

    with pytest.raises(UserError, match="in training mode, gives a GoogLeNetOutputs of 3; one tensor"):
        network(make, recipe.with_overrides({"data.size": 64}), options={"aux_logits": True})
    assert network(make, recipe.with_overrides({"data.size": 64}), options={"aux_logits": False}) is not None


def test_the_same_network_twice_is_refused():
    net = Net()
    create_host(model(lambda: net), 10, 1)
    with pytest.raises(UserError, match=r"returned first.weight before.*copy\.deepcopy"):
        create_host(model(lambda: net), 10, 1)
    for _ in range(2):
        create_host(model(lambda: copy.deepcopy(net)), 10, 1)


def test_options_are_named_and_misspelt():
    with pytest.raises(UserError, match=r"Net has no option 'haed'. Did you mean 'head'"):
        create_host(model(Net, options={"haed": 1}), 10, 1)
    with pytest.raises(UserError, match="num_classes follows from the data"):
        create_host(model(Net, options={"num_classes": 3}), 10, 1)


def test_a_checkpoint_of_its_own(tmp_path, caplog):
    from safetensors.torch import save_file

    net = Net()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING, "saccade"):
        made = create_host(model(Net, checkpoint=str(tmp_path / "w.safetensors")), 10, 1)
    torch.testing.assert_close(made.first.weight, net.first.weight, rtol=0, atol=0)


def test_a_saved_network_names_its_builder(tmp_path):
    recipe = DATA.with_overrides({"model": model(lambda num_classes: Net(num_classes, 1)).model_dump()})
    task = Classify(recipe, open_data(recipe.data, "label"))
    made = build(task)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    config = saccade.save(made, tmp_path, host=task.host(recipe.model), input=(1, 32, 32))
    assert config["host"] == {
        "passed": recipe.model.name, "code": recipe.model.code, "options": {"num_classes": 10}
    }  # fmt: skip
    again = saccade.load(tmp_path)
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(again(x), made.eval()(x), rtol=0, atol=0)
    del builders._registered[recipe.model.name, recipe.model.code]
    with pytest.raises(UserError, match=r"which was passed to saccade and lies in no module; give the network"):
        saccade.load(tmp_path)
    torch.testing.assert_close(saccade.load(tmp_path, host=Net(10))(x), again(x), rtol=0, atol=0)
