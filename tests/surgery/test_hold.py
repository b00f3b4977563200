"""Gates held at given values: the same bits for an image's own gate, another output for any other."""

import pytest
import torch
from torch import nn

import saccade
from saccade.contract.randomize import perturb
from saccade.surgery import plug, plug_control, record
from saccade.surgery.hold import held

SIZE = (3, 64, 48)


class Twice(nn.Module):
    """Runs one plugged convolution twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.conv(self.conv(self.stem(x)).relu()).mean((2, 3)))


HOSTS = {
    "neutral": lambda make: plug(make("timm resnet"), "se", input=SIZE),
    "paper": lambda make: plug(make("timm mobilenetv2"), "eca", start="paper", input=SIZE),
    "spatial": lambda make: plug(make("timm resnet"), "cbam", start="paper", input=SIZE),
    "shuffled": lambda make: plug_control(make("timm resnet"), "shuffled", "se", start="paper", input=SIZE),
    "context": lambda make: plug(make("timm resnet"), "gc", start="paper", input=SIZE),
    "own forward": lambda make: plug(make("timm resnet"), "coord", start="paper", input=SIZE),
    "twice": lambda make: plug(Twice(), "se", where="conv", input=SIZE, rd_ratio=0.5),
}


@pytest.mark.parametrize("name", HOSTS)
def test_own_gates_change_no_bit(make, name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = perturb(HOSTS[name](make)).eval()
        x = torch.randn(2, *SIZE) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    hooks = [len(m._forward_hooks) for m in host.modules()]
    with record(host) as gates, torch.no_grad():
        expected = host(x)
    with held(host, gates):
        for _ in range(2):
            torch.testing.assert_close(host(x), expected, rtol=0, atol=0)
    assert [len(m._forward_hooks) for m in host.modules()] == hooks
    swapped = {site: [g.flip(0) for g in (v if isinstance(v, list) else [v])] for site, v in gates.items()}
    with held(host, swapped), torch.no_grad():
        assert float((host(x) - expected).abs().max()) > 1e-5
    means = {site: v[0].mean(0) if isinstance(v, list) else v.mean(0, dtype=torch.float64) for site, v in gates.items()}
    with held(host, means), record(host) as recorded, torch.no_grad():
        host(x)
    for site, mean in means.items():
        shown = recorded[site][0] if isinstance(recorded[site], list) else recorded[site]
        torch.testing.assert_close(shown, mean.float().expand(shown.shape), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("suffix", "value", "message"),
    [
        ("x", torch.ones(1), "no gate or context at 'layer1.0.bn2x'. Did you mean 'layer1.0.bn2'"),
        ("", torch.ones(3), r"layer1.0.bn2: a held value of shape \(1, 3, 1, 1\) does not fit the gate of shape"),
        ("", [], "layer1.0.bn2 has 0 held values"),
    ],
)
def test_what_does_not_fit(make, suffix, value, message):
    host = plug(make("timm resnet"), "se", input=SIZE).eval()
    with pytest.raises(saccade.UserError, match=message), held(host, {f"layer1.0.bn2{suffix}": value}):
        host(torch.randn(2, *SIZE))
