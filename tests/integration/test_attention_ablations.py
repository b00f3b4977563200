"""The ablations of SE's and CBAM's papers, worked out on paper. σ(ln k) = k / (1 + k), tanh(ln 3) = 4/5."""

import pytest
import torch

from saccade import catalog, create
from saccade.contract import PROMISES, examine


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("se", {"squeeze": "std"}, "'mean' or 'max', got 'std'"),
        ("se", {"excitation": "gelu"}, "'sigmoid', 'relu' or 'tanh', got 'gelu'"),
        ("cbam", {"branches": "none"}, "'both', 'channel' or 'spatial', got 'none'"),
        ("cbam", {"channel_pool": "std"}, "channel_pool must be 'both', 'mean' or 'max', got 'std'"),
        ("cbam", {"spatial_pool": "std"}, "spatial_pool must be 'both', 'mean' or 'max', got 'std'"),
        ("cbam", {"order": "both"}, "'channel', 'spatial' or 'parallel', got 'both'"),
    ],
)
def test_there_are_no_others(name, options, message):
    with pytest.raises(ValueError, match=message):
        catalog.load(name)(16, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("se", {"squeeze": "max"}),
        ("se", {"excitation": "tanh"}),
        ("se", {"excitation": "relu"}),
        ("cbam", {"order": "spatial", "channel_pool": "mean", "spatial_pool": "max"}),
        ("cbam", {"order": "parallel", "channel_pool": "max"}),
        ("cbam", {"branches": "spatial", "spatial_pool": "mean"}),
        ("cbam", {"branches": "channel"}),
    ],
    ids=str,
)
def test_ablations_keep_every_promise(name, options):
    graphs = {"compiles_whole", "exports_for_any_size"}
    tried = [promise for promise in PROMISES if promise.__name__ not in graphs]
    records = examine(catalog.load(name), catalog.spec(name), options=options, promises=tried)
    assert {r.promise for r in records if r.status != "passed"} == set()


def test_the_defaults_are_those_of_the_authors():
    torch.manual_seed(0)
    plain = create("cbam", 16)
    torch.manual_seed(0)
    told = create("cbam", 16, branches="both", channel_pool="both", spatial_pool="both", order="channel")
    x = torch.randn(2, 16, 5, 4)
    torch.testing.assert_close(plain(x), told(x), rtol=0, atol=0)
