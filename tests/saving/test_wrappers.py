"""The network inside a known wrapper is saved; unknown wrappers are named."""

import pytest
import torch
from safetensors.torch import load_file
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from hostile import SIZE
from saccade import UserError, load, plug, plugs, save
from saved_folders import assert_same_outputs, randomise, small_resnet


class _Other(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        ModelEmaV3,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: nn.DataParallel(torch.compile(torch.optim.swa_utils.AveragedModel(net), backend="eager")),  # type: ignore[type-var]
    ],
    ids=["DataParallel", "AveragedModel", "ModelEma", "compile", "all"],
)
def test_of_a_wrapper_the_network_inside_is_saved(wrap, tmp_path):
    network = randomise(plug(small_resnet(num_classes=3), "se", input=SIZE)).eval()
    config = save(wrap(network), tmp_path)
    assert config["host"]["timm"] == "resnet10_small"
    assert load_file(tmp_path / "model.safetensors").keys() == network.state_dict().keys()
    assert [row.site for row in plugs(load(tmp_path))] == [row.site for row in plugs(network)]
    assert_same_outputs(network, load(tmp_path))
    assert_same_outputs(network, load(tmp_path, host=small_resnet(num_classes=3)))


def test_an_unknown_wrapper_is_named(tmp_path):
    network = _Other(randomise(small_resnet(num_classes=3)))
    with pytest.raises(UserError, match=r"begins with 'net\.'.*save\(model\.net, …\)"):
        save(network, tmp_path, host={"timm": "resnet10_small", "options": {"num_classes": 3, "width": 16}})
    save(network, tmp_path)
    with pytest.raises(UserError, match=r"begins with 'net\.'.*save\(model\.net, …\)"):
        load(tmp_path, host=small_resnet(num_classes=3))
    assert_same_outputs(network, load(tmp_path, host=_Other(small_resnet(num_classes=3))))


def test_a_wrapper_in_the_midst_is_named(tmp_path):
    network = small_resnet(num_classes=3)
    network.layer2 = torch.compile(network.layer2, backend="eager")
    with pytest.raises(UserError, match="the module 'layer2' is wrapped in OptimizedModule"):
        save(network, tmp_path / "net")
    assert not (tmp_path / "net").exists()
