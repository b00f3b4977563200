"""Reuse of freed memory."""

import subprocess
import sys

import pytest

from saccade.study import memory

CODE = """
import resource, statistics, sys
import torch
from saccade.study.memory import keep_freed_memory

assert sys.argv[1] == "left" or keep_freed_memory()
torch.manual_seed(0)
weight = torch.randn(64, 3, 3, 3, requires_grad=True)
x, seen = torch.randn(4, 3, 224, 224), []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    loss = torch.relu(torch.conv2d(x, weight, padding=1)).square().mean()
    loss.backward()
    seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(statistics.median(seen[5:])), loss.item().hex(), weight.grad.double().sum().item().hex())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_repeated_steps_need_no_new_pages_and_give_the_same_bytes():
    """The first few steps may still need some: the heap is fragmented, differently in every process."""

    def run(mode):
        result = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
        faults, *numbers = result.stdout.split()
        return int(faults), numbers

    (kept, kept_numbers), (left, left_numbers) = run("kept"), run("left")
    assert kept_numbers == left_numbers
    assert left > 10_000, "maps of 50 MB, made anew for each step"
    assert kept < left / 5


@pytest.mark.parametrize("library", [object(), None])
def test_other_c_libraries_return_false(monkeypatch, library):
    def none(_):
        if library is None:
            raise OSError("no such library")
        return library

    monkeypatch.setattr(memory.ctypes, "CDLL", none)
    assert not memory.keep_freed_memory()
