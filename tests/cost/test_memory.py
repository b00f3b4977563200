"""Peak memory against numbers worked out by hand, and the profiler."""

import gc
import math
import warnings

import pytest
import timm
import torch
from function_network import FunctionNetwork, ones
from torch import nn

from saccade.cost import measure
from saccade.cost.memory import _LiveStorages
from saccade.errors import UserError

BYTES = 4  # of a float32


def _memory(network, input):
    cost = measure(network, input, runs=1)
    return cost.memory, cost.step_memory


def test_memory_of_a_chain_by_hand():
    # 224 + 36 parameters, a 3×16×10 picture. At most live: the first map and its rectified copy.
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    own, picture, wide, narrow = 260, 3 * 160, 8 * 160, 4 * 160
    # Step: the rectified map is kept, and the result; its cotangent and the gradients of the last layer (36) come in,
    # then that of the rectified map, which stays while it becomes that of the first map.
    forward = own + picture + 2 * wide
    step = own + picture + wide + 2 * narrow + 36 + 2 * wide
    assert _memory(network, (3, 16, 10)) == (forward * BYTES, step * BYTES)
    network[1] = nn.ReLU(inplace=True)
    assert _memory(network, (3, 16, 10))[0] == (own + picture + wide + narrow) * BYTES


def test_memory_of_views_and_of_what_is_thrown_away():
    def sums(x):
        for _ in range(5):
            y = (x + 1).flatten(1)[:, ::2]  # one new tensor, two views of it
            del y
        return x.mean((1, 2, 3))

    assert _memory(FunctionNetwork(sums), ones(2, 3, 5, 7)) == ((210 + 210) * BYTES, None)


def test_memory_counts_shared_weights_and_buffers_once():
    shared = nn.Linear(50, 50, bias=False)
    network = nn.Sequential(nn.Flatten(), shared, shared)
    network.register_buffer("table", torch.zeros(1000))
    network.register_buffer("part", network.table[:10])
    assert _memory(network, ones(1, 2, 5, 5))[0] == (2500 + 1000 + 3 * 50) * BYTES


def test_memory_of_a_step_holds_the_gradients_of_what_trains():
    network = nn.Linear(300, 200, bias=False)
    # weights, input, output, cotangent, gradient
    assert _memory(network, (ones(1, 300),)) == ((60_000 + 500) * BYTES, (120_000 + 700) * BYTES)
    assert network.weight.grad is None
    network.requires_grad_(False)
    assert _memory(network, (ones(1, 300),))[1] is None


def test_memory_of_a_step_of_what_cannot_be_trained():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), FunctionNetwork(lambda x: x.argmax(1)))
    assert _memory(network, (3, 4, 4))[1] is None
    spoilt = nn.Sequential(
        nn.Conv2d(3, 2, 1), FunctionNetwork(lambda x: x.exp().mul_(x.exp().add_(0)) + x.sigmoid().zero_())
    )
    assert _memory(spoilt, (3, 4, 4))[1] is None


def test_a_step_that_does_not_fit_into_memory_is_not_one_that_cannot_be_trained():
    class Hungry(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient.new_empty(2**58)

    network = nn.Sequential(nn.Conv2d(3, 2, 1), FunctionNetwork(Hungry.apply))
    with pytest.raises(UserError, match="a training step of Sequential on 1×3×5×4 does not fit into memory"):
        measure(network, (3, 5, 4), runs=1)


def test_memory_sees_tensors_inside_structures():
    found = FunctionNetwork(lambda x: {"maps": [x + 1, (x + 2,)], "count": 3})
    assert _memory(found, ones(1, 1, 5, 7))[0] == 3 * 35 * BYTES


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
def test_memory_of_a_sparse_tensor_is_its_indices_and_values(layout):
    # Of 6×4 elements two are not zero, in two blocks of 3×2; a place takes 8 bytes.
    places, block = {"coo": (2 * 2, ()), "csr": (7 + 2, ()), "csc": (5 + 2, ()), "bsr": (3 + 2, (3, 2)),
                     "bsc": (3 + 2, (3, 2))}[layout]  # fmt: skip
    heads = {"csr": [0, 1, 1, 1, 1, 2, 2], "csc": [0, 0, 1, 1, 2], "bsr": [0, 1, 2], "bsc": [0, 1, 2]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta")
        if layout == "coo":
            where = torch.tensor([[0, 4], [3, 1]])
            held = [torch.sparse_coo_tensor(where, torch.ones(2), (6, 4), check_invariants=True)]
            del where
        else:
            kind, values = getattr(torch, f"sparse_{layout}"), torch.ones(2, *block)
            rest = torch.tensor([1, 0] if layout != "csc" else [4, 0])
            held = [
                torch.sparse_compressed_tensor(
                    torch.tensor(heads[layout]), rest, values, (6, 4), layout=kind, check_invariants=True
                )
            ]
            del rest, values
        live = _LiveStorages([*held, held[0].detach()])  # an alias is no more
    assert live.peak == places * 8 + 2 * math.prod(block) * BYTES
    held.clear()  # the twin: the bytes go when the tensor does
    gc.collect()
    assert live.live_bytes == 0


def test_memory_of_a_sparse_weight_is_in_that_of_the_forward():
    places = torch.tensor([[0, 4, 5], [3, 1, 2]])
    network = FunctionNetwork(lambda x: x.flatten(1))
    network.register_buffer("dense", torch.zeros(5))
    bare = _memory(network, ones(1, 1, 5, 7))[0]
    network.register_buffer("table", torch.sparse_coo_tensor(places, torch.ones(3), (600, 400), check_invariants=True))
    assert _memory(network, ones(1, 1, 5, 7))[0] == bare + 6 * 8 + 3 * BYTES


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no MKL-DNN")
def test_memory_of_an_opaque_tensor_is_that_of_its_elements():
    held = [torch.ones(5, 7).to_mkldnn()]
    live = _LiveStorages(held)
    assert live.peak == 35 * BYTES
    held.clear()
    assert live.live_bytes == 0


def test_memory_is_what_the_profiler_sees():
    network = timm.create_model("resnet18").eval()
    x = torch.rand(2, 3, 64, 48)
    live = [0]
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        network(x)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live.append(live[-1] + event.nbytes())
    own = sum(t.nbytes for t in (*network.parameters(), *network.buffers(), x))
    memory = measure(network, x, runs=1).memory
    # The profiler also sees what kernels take and give back: copies of weights in another layout, 9.4 MB at most.
    assert memory <= own + max(live) <= memory + 512 * 512 * 9 * BYTES + 1e6
    assert memory - own == 2 * (2 * 64 * 32 * 24) * BYTES  # the first map before and after its norm
