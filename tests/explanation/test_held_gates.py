"""Gates held at their mean or taken from another image: networks whose result is known by construction."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.tv_tensors import Mask

import saccade
from saccade.bases import Gate
from saccade.contract.randomize import perturb
from saccade.data.samples import ImageSet
from saccade.explanation.held_gates import ALL_GATES, Plan, count_gates, hold_gates
from saccade.explanation.held_gates_file import FILE, held_gates_key, read_held_gates, write_held_gates
from saccade.surgery import plug_control
from saccade.tasks.classify import Classify
from saccade.tasks.segment import Segment

N = 40


def _task(kind=Classify, targets=None, n=N):
    """Return a task of ``n`` training and test images; red is 1, green is the class, 0 or 1, blue is noise."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) // (n // 2)  # sorted, as in folders
    pixels = torch.randint(0, 256, (n, 3, 6, 4), dtype=torch.uint8, generator=generator)
    pixels[:, 0], pixels[:, 1] = 255, 255 * labels[:, None, None].to(torch.uint8)
    images = ImageSet(
        pixels, targets or labels.tolist(), (0.0,) * 3, (1.0,) * 3, groups=[f"g{i % 7}" for i in range(n)]
    )
    task = object.__new__(kind)
    task.data = SimpleNamespace(train=images, test=images, classes=["a", "b"], fingerprint="f")
    task.recipe = saccade.Recipe()
    return task, labels


class Green(Gate):
    """The gate is the mean of the green channel, which is the class."""

    def gate(self, x):
        return x[:, 1:2].mean((2, 3), keepdim=True)


class Red(nn.Module):
    """Class 1 if the red channel, the same in every image, passes the gate by more than 0.6."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x):
        red = self.parts(x)[:, 0].mean((1, 2)) - 0.6
        return torch.stack([-red, red], 1)


def _plugged(mechanism, start="paper", **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten())  # fmt: skip
    return perturb(saccade.plug(net, mechanism, where=["1", "3"], start=start, input=(3, 6, 4), **options), by=0.5)


def _differs(one, other):
    return any(not torch.equal(one[key], other[key]) for key in one)


def test_a_gate_that_carries_the_label():
    task, labels = _task()
    found = hold_gates(Red(Green()), task)
    assert (list(found.gates), list(found.held), found.n_images, found.n_training) == (["parts.0"], ["parts.0"], N, N)
    torch.testing.assert_close(found.own["predicted"].long(), labels)
    # Held at its mean 1/2, red is 0.5 in every image; with the gate of its successor, it is the successor's class.
    assert not found.held["parts.0"]["predicted"].any()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    successor = torch.empty_like(order)
    successor[order] = order.roll(-1)
    assert not (successor == torch.arange(N)).any()
    torch.testing.assert_close(found.other["parts.0"]["predicted"].long(), labels[successor])
    torch.testing.assert_close(found.own["group"], torch.arange(N) % 7)
    facts = found.gates["parts.0"]
    assert (facts.shape, facts.low, facts.high, facts.mean, facts.spread) == ((1, 1, 1), 0, 1, 0.5, 0.5)
    assert not facts.constant


def test_constant_gates_change_no_bit():
    task, _ = _task()
    net = _plugged("se", rd_ratio=0.5)
    changed = hold_gates(net, task)
    assert list(changed.held) == [ALL_GATES, "1", "3"]
    assert all(_differs(changed.own, rows) for rows in (*changed.held.values(), *changed.other.values()))
    assert not any(gate.constant for gate in changed.gates.values())
    with torch.no_grad():
        for row in saccade.plugs(net):
            for parameter in row.module.mechanism.parameters():
                if parameter.ndim > 1:
                    parameter.zero_()
    found = hold_gates(net, task)
    assert all(gate.constant for gate in found.gates.values())
    assert _differs(found.own, changed.own)
    assert not any(_differs(found.own, rows) for rows in (*found.held.values(), *found.other.values()))


def test_facts_are_of_the_effective_gate():
    task, _ = _task()
    net = _plugged("se", start="neutral", rd_ratio=0.5)
    found = hold_gates(net, task)
    plug = saccade.plugs(net)[0].module
    with torch.no_grad(), saccade.record(net) as recorded:
        net.eval()(torch.stack([task.data.test[i][0] for i in range(N)]))
    gate = 1 + plug.a.item() * (recorded["1"] - 1)
    facts = found.gates["1"]
    expected = (gate.min(), gate.max(), gate.mean(), gate.var(0, correction=0).mean().sqrt())
    torch.testing.assert_close((facts.low, facts.high, facts.mean, facts.spread), tuple(map(float, expected)))
    assert _differs(found.own, found.held["1"])
    with torch.no_grad():
        for row in saccade.plugs(net):
            row.module.a.zero_()
    unmoved = hold_gates(net, task)
    assert all(gate.constant and gate.spread == 0 for gate in unmoved.gates.values())
    assert not any(_differs(unmoved.own, rows) for rows in (*unmoved.held.values(), *unmoved.other.values()))


def test_maps_are_averaged_per_element_and_calls_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = Spatial()

        def forward(self, x):
            return self.gate(torch.cat([self.gate(x), x], 1)).mean((2, 3))[:, :2]

    class Spatial(Gate):
        def gate(self, x):
            return x.sigmoid()

    task, _ = _task()
    found = hold_gates(Twice(), task)
    assert found.gates["gate"].shape == (3, 6, 4)
    assert _differs(found.own, found.held["gate"])
    x = torch.stack([task.data.train[i][0] for i in range(N)])
    first = x.sigmoid().mean(0)
    second = torch.cat([x.sigmoid() * x, x], 1).sigmoid().mean(0)
    logits = (torch.cat([first * x, x], 1) * second).mean((2, 3))[:, :2]
    nll = nn.functional.cross_entropy(logits, torch.tensor(task.data.test.targets), reduction="none")
    torch.testing.assert_close(found.held["gate"]["nll"], nll)


def test_plan_and_number_of_forward_passes():
    task, _ = _task(n=130)  # more than one batch
    net, seen = Red(*(Green() for _ in range(5))), []
    net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    plan = Plan(images=129, training_images=10, gates=2)
    found = hold_gates(net, task, plan)
    assert (list(found.held), len(found.gates), count_gates(net)) == ([ALL_GATES, "parts.0", "parts.2"], 5, 5)
    assert sum(seen) == plan.forward_passes(5) == 129 * 7 + 10
    assert set(seen) == {10, 64, 65}
    assert Plan().covers(plan)
    assert not plan.covers(Plan())
    assert Plan(images=10, training_images=1).forward_passes(1) == 31
    net, plan = Red(Green()), Plan(images=10, training_images=1, gates=0)
    assert plan.forward_passes(1) == 31
    assert list(hold_gates(net, task, plan).held) == list(hold_gates(net, task, Plan(10, 1)).held) == ["parts.0"]


def test_what_is_left_out():
    task, _ = _task()
    for control in ("shuffled", "noise"):
        net = plug_control(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                           control, "se", where=["1"], start="paper", input=(3, 6, 4), rd_ratio=0.5)  # fmt: skip
        found = hold_gates(net, task)
        assert (found.own, list(found.skipped), count_gates(net)) == ({}, ["1"], 0)

    class Halves(Red):
        """Halves the images of the second batch."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x[..., : 4 if self.calls == 1 else 2])

    class Map(Gate):
        def gate(self, x):
            return x.sigmoid()

    task, _ = _task(n=130)
    assert hold_gates(Halves(Map()), task).skipped == {"parts.0": "its size depends on the image"}
    assert hold_gates(Red(Map()), task, Plan(images=1)).skipped == {"parts.0": "there is no other test image"}
    assert hold_gates(nn.Sequential(nn.Flatten()), task).skipped == {}


def test_network_is_left_as_it_was():
    task, _ = _task()
    net = _plugged("cbam", rd_ratio=0.5).train()
    state, rng = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    hooks = [len(module._forward_hooks) for module in net.modules()]
    hold_gates(net, task)
    assert net.training
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_segmentation():
    masks = [Mask(torch.full((6, 4), int(i >= N // 2), dtype=torch.uint8)) for i in range(N)]
    task, _ = _task(Segment, masks)

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = Green()

        def forward(self, x):
            red = self.gate(x)[:, :1] - 0.6
            return torch.cat([-red, red], 1)

    found = hold_gates(Dense(), task)
    miou = Segment.metrics[0]
    assert miou.compute(found.own) == 100
    assert miou.compute(found.held["gate"]) == pytest.approx(25)  # class 0 everywhere: IoU 1/2 and 0


def _with_spread(content, value):
    """Return the file with another spread of the first gate, padded to the same length."""
    start = content.index(b"spread") + len(b'spread\\": ')
    end = content.index(b",", start)
    return content[:start] + value.ljust(end - start) + content[end:]


def test_file(tmp_path):
    task, _ = _task()
    for name in ("recipe.toml", "config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    found, path = hold_gates(_plugged("cbam", rd_ratio=0.5), task), tmp_path / FILE
    key = held_gates_key(tmp_path, task)
    assert read_held_gates(path, key) is None
    write_held_gates(path, key, found)
    again = read_held_gates(path, key)
    assert (again.plan, again.gates, again.skipped, again.n_images) == (found.plan, found.gates, found.skipped, N)
    for kind in ("held", "other"):
        assert list(getattr(again, kind)) == list(getattr(found, kind))
        for name, rows in getattr(found, kind).items():
            torch.testing.assert_close(getattr(again, kind)[name], rows, rtol=0, atol=0)
    (tmp_path / "model.safetensors").write_text("other weights")
    assert read_held_gates(path, held_gates_key(tmp_path, task)) is None
    task.data.fingerprint = "other images"
    assert held_gates_key(tmp_path, task) != key
    content = path.read_bytes()
    broken = [content[:-9], b"", b"x" * 99, content.replace(b"n_training", b"n_trainin_"),
              content.replace(b'held0|nll"', b'held0|nlm"'), _with_spread(content, b"NaN"),
              _with_spread(content, b"[1]")]  # fmt: skip
    for damaged in broken:
        assert damaged != content
        path.write_bytes(damaged)
        assert read_held_gates(path, key) is None
    path.write_bytes(_with_spread(content, b"0.25"))
    assert next(iter(read_held_gates(path, key).gates.values())).spread == 0.25
    write_held_gates(tmp_path / "missing" / FILE, key, found)  # as in a read-only folder
    assert not (tmp_path / "missing").exists()
