"""The benchmark of architectures: its fit, its table, its page, and the row of a network that fails."""

import json

import pytest
import torch

import architectures
from architectures import MARKERS, PLAIN, Job, Result, power_law, report, run, write_into


def test_every_classifier_has_a_plain_network():
    assert sorted(set(architectures.classifiers()) - set(PLAIN)) == []
    assert "ran56" in architectures.classifiers()
    assert "ran_small" not in architectures.classifiers()


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_the_fit_finds_the_exponent_beside_what_does_not_grow(exponent):
    pixels = [side**2 for side in (112, 160, 224, 288, 352, 448)]
    found, residual = power_law(pixels, [5e7 + 3 * n**exponent for n in pixels])
    assert found == pytest.approx(exponent, abs=0.01)
    assert residual < 0.01
    mixed = [400 * n + (n / 16) ** 2 * 8 for n in pixels]  # no power law
    assert power_law(pixels, mixed)[1] > residual


def test_a_constant_below_zero_is_not_fitted():
    found, residual = power_law([1, 2, 3, 4], [1, 2, 3, 3.5])
    assert 0.8 < found < 1
    assert residual > 0.02


def test_memory_of_dense_attention_grows_with_the_square():
    job = Job("dense", sizes=(96, 128, 160, 192))
    found = architectures.growth(job)
    assert found["exponent"] == pytest.approx(1.95, abs=0.1)
    matrix = (192 // 4) ** 4 * 4
    assert 2 * matrix < found["bytes"][-1] < 5 * matrix


def test_what_is_slower_has_a_ratio_below_one(monkeypatch):
    monkeypatch.setattr(architectures, "network", lambda name, device: Slow(int(name)))
    found = architectures.compare(Job("30", "1", size=(16, 16), seconds=0.05))
    assert found["parameters"] == {"ours": 30 * 12, "plain": 12}
    for what in ("forward", "step"):
        assert found[what]["ratio"][0] < 0.5
        assert found[what]["rounds"] >= architectures.FEWEST
        speeds = found[what]["images_per_second"]
        assert speeds["ours"] < speeds["plain"]
    assert found["memory"]["ours"] > found["memory"]["plain"]


class Slow(torch.nn.Module):
    """So many layers."""

    def __init__(self, count):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(3, 3, 1) for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_network_that_fails_has_a_row_with_the_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PLAIN, "ran99", "resnet10_small")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    options = ["--quick", "--only", "ran99", "--into", str(page), "--json", str(tmp_path / "all.json")]
    assert architectures.main(options) == 1
    row = "| `ran99` | `resnet10_small` | not measured: RuntimeError: Unknown model (ran99) |"
    assert row in capsys.readouterr().out
    text = page.read_text()
    assert row in text
    assert text.startswith("before\n")
    assert text.endswith(f"{MARKERS[1]}\nafter\n")
    assert "old" not in text
    assert "Unknown model" in json.loads((tmp_path / "all.json").read_text())["results"][0]["reason"]


def test_a_process_that_takes_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr(architectures, "TIMEOUT", 0.01)
    assert run(Job("ran56", "resnet50")).reason == "not finished after 0 s"


def test_the_tables():
    both = {"ours": 2e9, "plain": 1e9}
    timing = {"images_per_second": {"ours": 5.0, "plain": 10.0}, "ratio": (0.5, 0.4, 0.6), "rounds": 5}
    found = {"parameters": both, "macs": both, "memory": both, "forward": timing, "step": timing}
    grown = Result(Job("dense", sizes=(8, 16)), {"bytes": [1e6, 16e6], "exponent": 2.0, "residual": 0.015})
    facts = architectures.machine(1)
    text = report([Result(Job("ran56", "resnet101"), found)], [grown], facts, 2)
    assert (
        "| `ran56` | `resnet101` | 2000.0 / 1000.0 | 2.00 / 1.00 | 5.0 / 10.0 | 0.50 (0.40 – 0.60) | 5.0 / 10.0 | "
        "0.50 (0.40 – 0.60) | 2000 / 1000 |"
    ) in text
    assert "| one map of self-attention * | 1 | 16 | 2.00 | 1.5 % |" in text
    assert "2 images of 224×224 pixels" in text
    failed = report([], [Result(grown.job, reason="out | of memory")], facts, 2)
    assert "not measured: out / of memory" in failed


def test_a_page_without_markers_stays_as_it_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no part")
    with pytest.raises(SystemExit, match="has no part between"):
        write_into(page, "tables")
    assert page.read_text() == "no part"


def test_a_misspelt_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        architectures.parse(["--only", "ran65"])
    assert "there is no network 'ran65'." in capsys.readouterr().err
