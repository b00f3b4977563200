"""On CUDA: operators and mechanisms against the CPU, a plugged host, records, files, autocast."""

import copy

import pytest
import timm
import torch
from torch import nn

import gpu_checks
import saccade
from gpu_operators import OPERATORS
from saccade.contract.randomize import perturb, randomize
from saccade.training import train
from tiny_runs import COMBINED, Killed, after, listener

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch.cuda.is_available() is False: this machine has no GPU for PyTorch"
)


@pytest.fixture(autouse=True)
def _exact():
    gpu_checks.exact_arithmetic()


def _host():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    layers += [nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    return randomize(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))).to(DEVICE)


def _pictures():
    return torch.randn(2, 3, 20, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_its_definition_on_the_cpu(name):
    row = gpu_checks.values(name, "operator", DEVICE, True)
    assert row["status"] == "ok", row["note"]


@pytest.mark.parametrize("name", ["se", "cbam", "das", "dcn2", "self_attention", "cc", "dat", "gsop"])
def test_mechanism_is_that_of_the_cpu(name):
    row = gpu_checks.values(name, "eval", DEVICE, True)
    assert row["status"] == "ok", row["note"]


@pytest.mark.parametrize("mechanism", ["se", "das", "self_attention", "simam"])
def test_plug_keeps_a_host_on_cuda_bit_for_bit_until_a_moves(mechanism):
    host, pictures = _host(), _pictures()
    with torch.no_grad():
        before = host.eval()(pictures)
        saccade.plug(host, mechanism, where=["0", "3"], input=(3, 20, 16))
        assert all(p.device.type == DEVICE for p in host.parameters())
        assert torch.equal(host(pictures), before)
        perturb(host)
        assert not torch.equal(host(pictures), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_under_autocast_is_finite(dtype):
    host = saccade.plug(_host(), "das", where=["0", "3"], input=(3, 20, 16)).train()
    perturb(host)
    with torch.autocast(DEVICE, dtype):
        loss = host(_pictures()).square().mean()
    loss.backward()
    gradients = [p.grad for name, p in host.named_parameters() if "saccade." in name]
    assert gradients
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


def test_record_sees_the_gates_of_cuda():
    host = saccade.plug(_host(), "se", where=["0", "3"], input=(3, 20, 16)).eval()
    perturb(host)
    twin = copy.deepcopy(host).cpu()
    with torch.no_grad(), saccade.record(host) as found, saccade.record(twin) as on_cpu:
        host(_pictures())
        twin(_pictures().cpu())
    assert len(found) == len(on_cpu) == 2
    for site, gate in found.items():
        assert isinstance(gate, torch.Tensor)
        assert gate.device.type == DEVICE
        torch.testing.assert_close(gate.cpu(), on_cpu[site], rtol=1e-4, atol=1e-5)


def test_what_cuda_saved_loads_on_the_cpu_and_back(tmp_path):
    options = {"num_classes": 5}
    torch.manual_seed(0)
    network = randomize(timm.create_model("resnet10t", **options)).to(DEVICE)
    saccade.plug(network, "das", input=(3, 32, 32)).eval()
    perturb(network)
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    saccade.save(network, tmp_path / "network", host={"timm": "resnet10t", "options": options})
    again = saccade.load(tmp_path / "network").eval()
    with torch.no_grad():
        known = network(pictures)
        torch.testing.assert_close(again(pictures.cpu()), known.cpu(), rtol=1e-3, atol=1e-4)
        assert torch.equal(again.to(DEVICE)(pictures), known)


def test_a_run_with_all_that_a_recipe_can_ask_for_goes_on_after_a_kill(tmp_path):
    """Averaged weights, a teacher, mixed images and clipped gradients live on the device of the network."""
    teacher, place = tmp_path / "teacher", tmp_path / "run"
    train(COMBINED, teacher, device=DEVICE)
    recipe = COMBINED.with_overrides({"training.teacher": str(teacher), "training.precision": "bf16"})
    _, listen = listener(until=after(2))
    with pytest.raises(Killed):
        train(recipe, place, device=DEVICE, notify=listen)
    result = train(recipe, place, device=DEVICE)
    assert (result["epochs"], result["diverged"]) == (3, None)
    assert len(saccade.plugs(saccade.load(place))) == 4
