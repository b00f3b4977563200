"""``training.memory_format`` sets the format of feature maps; results differ only by rounding."""

import pytest
import torch
from safetensors.torch import load_file

from saccade import load
from saccade.training import train
from tiny_runs import TINY, Killed, after, assert_same_run, assert_weights_equal, listener, network_of, opened

LAST = {"training.memory_format": "channels_last"}
PLAIN = TINY.with_overrides({"attention.mechanism": "none", "model.options": {"width": 4}})


def maps(recipe):
    """Return the outputs of all convolutions."""
    split, found = opened(recipe), []
    network = network_of(recipe, split)
    hooks = [
        module.register_forward_hook(lambda m, i, y: found.append(y))
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    network(torch.stack([split.test[i][0] for i in range(3)]))
    for hook in hooks:
        hook.remove()
    return found


def is_last(map_):
    return map_.is_contiguous(memory_format=torch.channels_last) and not map_.is_contiguous()


def test_maps_lie_as_asked():
    _, *others = maps(PLAIN.with_overrides(LAST))
    assert others
    assert [w.shape for w in others if not is_last(w)] == [], "the first kernels have one channel, so either format"
    assert not any(map(is_last, maps(PLAIN)))


@pytest.mark.parametrize("attention", ["se", "cbam", "das", "dat", "gsop", "sasa", "dcn2"])
def test_a_network_has_the_same_weights_and_nearly_the_same_answers(attention):
    where = "conv3x3" if attention in ("sasa", "dcn2") else "stage"
    wide = {"model.options": {"width": 16}, "attention.mechanism": attention, "attention.where": where}
    recipe = PLAIN.with_overrides(wide)
    split = opened(recipe)
    one, two = (network_of(each, split).eval() for each in (recipe, recipe.with_overrides(LAST)))
    assert_weights_equal(two.state_dict(), one.state_dict())
    images = torch.stack([split.test[i][0] for i in range(8)])
    assert torch.allclose(one(images), two(images), atol=1e-5)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_training_differs_by_rounding_alone(tmp_path):
    short = TINY.with_overrides({"training.epochs": 1, "training.lr": 0.005})
    for name, more in (("a", {}), ("b", LAST), ("c", LAST), ("seed", {"training.seed": 1})):
        train(short.with_overrides(more), tmp_path / name, device="cpu")
    first, last, other = (weights(tmp_path / name) for name in ("a", "b", "seed"))

    def far(those):
        gaps = [(first[key].double() - those[key].double()).abs().max() for key in first]
        return float(max(gaps))

    assert 0 < far(last) < 1e-3 < far(other), "it is not the same arithmetic, but the same training"
    assert [key for key, value in last.items() if not value.is_contiguous()] == [], "files store no memory format"
    changed = (tmp_path / "b/recipe.toml").read_text()
    assert 'memory_format = "channels_last"' in changed
    assert (tmp_path / "b/model.safetensors").read_bytes() == (tmp_path / "c/model.safetensors").read_bytes()
    assert load(tmp_path / "b").eval()(torch.zeros(1, 1, 24, 24)).isfinite().all()


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    recipe = TINY.with_overrides(LAST)
    train(recipe, tmp_path / "whole", device="cpu")

    _, listen = listener(after(1))
    with pytest.raises(Killed):
        train(recipe, tmp_path / "parts", device="cpu", notify=listen)
    train(recipe, tmp_path / "parts", device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
