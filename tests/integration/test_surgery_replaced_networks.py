"""Networks with mechanisms in the place of convolutions: saved, exported, measured, trained, compared."""

import json
import logging
import os
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import saccade
import saccade.models  # resnet10_small
from saccade import UserError, load, plug, plugs, replace, replacements, save, unplug
from saccade.contract.randomize import perturb
from saccade.cost import measure
from saccade.recipe import Recipe
from saccade.study.arms import arms
from saccade.surgery.replaced import CHILD
from saccade.training import train
from saccade.training.gates import plug_statistics
from saccade.training.network import actual_start
from tiny_runs import network_of, opened, rows

SIZE = (3, 32, 24)
TINY = Recipe().with_overrides(
    {
        "data.size": 24,
        "data.train_images": 40,
        "data.test_images": 20,
        "model.options": {"width": 4, "zero_init_last": False},
        "attention.mechanism": "dcn2",
        "training.epochs": 1,
        "training.batch_size": 10,
    }
)


class Pointwise(nn.Module):
    """A mechanism that keeps no kernel."""

    def __init__(
        self, channels: int, out_channels: int | None = None, kernel_size: int = 3, stride: int = 1,
        padding: int | None = None, dilation: int = 1, groups: int = 1, bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride = stride
        self.mix = nn.Conv2d(channels, out_channels or channels, 1, bias=bias)

    def forward(self, x):
        return self.mix(x[..., :: self.stride, :: self.stride])


def _small(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return perturb(timm.create_model("resnet10_small", num_classes=5, width=16, **options)).eval()


def _x(batch=2):
    return torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def both():
    """A network with dcn2 in the place of convolutions and se behind others, nothing of it fresh."""
    return perturb(plug(replace(_small(), "dcn2", input=SIZE), "se", where="stage", input=SIZE)).eval()


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "saccade")


def test_there_and_back(both, tmp_path):
    config = save(both, tmp_path / "net", input=SIZE)
    assert json.loads((tmp_path / "net/config.json").read_text())["replacements"] == config["replacements"]
    again = load(tmp_path / "net")
    torch.testing.assert_close(again(_x()), both(_x()), rtol=0, atol=0)
    assert [(r.convolution, r.mechanism, r.size, r.stage, r.position, r.neutral) for r in replacements(again)] == [
        (r.convolution, r.mechanism, r.size, r.stage, r.position, r.neutral) for r in replacements(both)
    ]
    assert [r.site for r in plugs(again)] == [r.site for r in plugs(both)]
    torch.testing.assert_close(unplug(again)(_x()), unplug(both)(_x()), rtol=0, atol=0)
    with torch.no_grad():
        both.layer4[0].conv2.weight.mul_(1.5)
    assert not torch.equal(load(tmp_path / "net")(_x()), both(_x()))


def test_kernels_that_no_file_holds_are_not_made_up(tmp_path):
    network = perturb(replace(_small(), Pointwise, where="conv3x3", input=SIZE)).eval()
    save(network, tmp_path / "net", input=SIZE)
    again = load(tmp_path / "net", trust=True)
    torch.testing.assert_close(again(_x()), network(_x()), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"the kernel of layer1\.0\.conv2.* was not saved"):
        unplug(again)
    torch.testing.assert_close(again(_x()), network(_x()), rtol=0, atol=0)
    host = _small()
    again.load_state_dict(host.state_dict())  # now they are known
    torch.testing.assert_close(unplug(again)(_x()), host(_x()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [{"size": [8]}, {"size": ["a", 3]}, {"size": None}, {"options": [1]}, {"options": None}, {"convolution": "fc.0"}],
    ids=str,
)
def test_a_broken_row_is_told_and_the_host_is_left_as_it_was(both, tmp_path, change):
    save(both, tmp_path / "net", input=SIZE)
    path, host = tmp_path / "net/config.json", _small()
    keys, config = list(host.state_dict()), json.loads(path.read_text())
    config["replacements"][1] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"net/config.json: (replacements\.1\.|ResNetSmall has no module 'fc\.0')"):
        load(tmp_path / "net", host=host)
    assert list(host.state_dict()) == keys


def test_a_host_that_is_given_is_left_as_it_was_where_the_file_does_not_fit(both, tmp_path):
    save(both, tmp_path / "net", input=SIZE)
    other = timm.create_model("resnet10_small", num_classes=4, width=16)
    keys = list(other.state_dict())
    with pytest.raises(UserError, match="different shapes"):
        load(tmp_path / "net", host=other)
    assert list(other.state_dict()) == keys
    wrong = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(UserError, match="no module"):
        load(tmp_path / "net", host=wrong)
    assert replacements(wrong) == []


def test_in_onnx(tmp_path):
    network = perturb(replace(_small(), "dcn2", where="layer4.0.conv2", input=SIZE)).eval()
    done = saccade.export(network, tmp_path / "net.onnx", input=SIZE)
    assert [row for row in done.compared if not row.difference < 1e-4] == []


def test_true_cost_counts_the_kernel_and_thop_what_thop_counts(both):
    host, x = _small(), torch.rand(1, *SIZE)
    plain = measure(host, x, runs=1)
    replace(host, "dcn2", where="layer4.0.conv2", input=SIZE)
    (row,) = replacements(host)
    cost = measure(host, x, runs=1)
    assert cost.parameters - plain.parameters == row.parameters == 27 * (9 * row.channels + 1)
    height, width = row.size
    offsets = 27 * 9 * row.channels * height * width
    samples = cost.macs - plain.macs - offsets
    assert 0 <= samples <= 9 * 4 * row.channels * height * width  # interpolation; the kernel itself as before
    found = measure(host, x, runs=1, counter="thop")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses distutils
        import thop

        macs, parameters = thop.profile(host, (x,), verbose=False)
    assert (found.macs, found.parameters) == (macs, parameters)


@pytest.fixture(scope="module")
def split():
    return opened(TINY)


def test_a_recipe_replaces(split):
    x = torch.stack([split.test[n][0] for n in range(6)])
    plain = network_of(TINY.with_overrides({"attention.mechanism": "none"}), split).eval()
    for start, said in (("auto", "paper"), ("neutral", "neutral")):
        network = network_of(TINY.with_overrides({"attention.start": start}), split).eval()
        assert actual_start(network) == said
        assert len(replacements(network)) == 3
        off = ((network(x) - plain(x)).abs().max() / plain(x).abs().max()).item()
        assert (off < 1e-5) is (said == "neutral")
    with pytest.raises(UserError, match="dcn2 replaces convolutions"):
        network_of(TINY.with_overrides({"attention.control": "noise"}), split)


def test_a_run_of_it(split, tmp_path):
    done = train(TINY.with_overrides({"attention.start": "neutral"}), tmp_path)
    assert done["start"] == "neutral"
    before, after = [row["gates"] for row in rows(tmp_path)]
    assert list(before) == list(after) == [row.convolution for row in replacements(load(tmp_path))]
    assert {site["kind"] for site in before.values()} == {"change"}
    assert max(site["mean"] for site in before.values()) < 1e-5 < min(site["mean"] for site in after.values())


def test_movement_is_that_of_the_convolution_alone():
    host, x = replace(_small(), "dcn2", where="layer4.0.conv2", input=SIZE), _x()
    plug(host, "se", where="layer4.0.conv2", input=SIZE)
    for row in plugs(host):
        row.module.a.data.fill_(1.0)
    moved = plug_statistics(host, x)
    assert list(moved) == ["layer4.0.conv2", f"layer4.0.conv2.{CHILD}"]
    assert moved[f"layer4.0.conv2.{CHILD}"]["mean"] < 1e-5
    replacements(host)[0].module.scale = 3.0
    assert plug_statistics(host, x)[f"layer4.0.conv2.{CHILD}"]["mean"] == pytest.approx(0.5, rel=1e-4)


def test_arms_of_a_study():
    assert [arm.name for arm in arms(["se", "dcn2"], ["noise:se"])] == ["none", "se", "dcn2", "noise for se"]
    for control in ("noise", "extra:dcn2", "shuffled"):
        with pytest.raises(UserError, match="'dcn2', which replaces convolutions"):
            arms(["se", "dcn2"], [control])


def test_training_in_parallel(both):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(both.train())
        wrapped(_x()).sum().backward()
        assert [p for p in both.parameters() if p.grad is None] == []
        with pytest.raises(UserError, match="DistributedDataParallel"):
            replace(wrapped, "dcn1", input=SIZE)
    finally:
        torch.distributed.destroy_process_group()
