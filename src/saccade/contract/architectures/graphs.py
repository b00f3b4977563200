"""Promises about graphs and files: compiled, exported and saved networks compute the same values."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import export
from torch.export import Dim

from saccade.contract.architectures.case import ArchitectureCase
from saccade.contract.graphs import errors_as_broken_promise
from saccade.contract.harness import TOLERANCE, distance, each_mode, expect, make_rewind

__all__ = ["compiles_in_one_graph", "exports_for_any_batch", "survives_saving"]


def survives_saving(case: ArchitectureCase) -> None:
    """``saccade.save`` and ``saccade.load`` give a network of the same output and keys."""
    from saccade.saving import load, save  # later, because they need more packages than torch

    network, x = case.build_randomized(dtype=torch.float32), case.random_maps(dtype=torch.float32)
    expected = case.logits(network, x)
    with TemporaryDirectory() as folder:
        save(network, folder, host=case.host(), input=case.image_size)
        loaded = load(folder, trust=True)
    expect(torch.equal(loaded(x), expected), "the loaded network gives another output")
    expect(list(loaded.state_dict()) == list(network.state_dict()), "the loaded network has other keys")


def compiles_in_one_graph(case: ArchitectureCase) -> None:
    """``torch.compile(fullgraph=True)`` gives the same output, in eval (backend ``aot_eager``) and train (``eager``).

    The backends only trace, because the graph is tested. The caches of ``torch.compile`` are emptied.
    """
    network, x = case.build_randomized(), case.random_maps()
    rewind = make_rewind(network)
    torch.compiler.reset()
    try:
        for mode in each_mode(network):
            compiled = torch.compile(network, fullgraph=True, backend="aot_eager" if mode == "eval" else "eager")
            with torch.set_grad_enabled(mode == "train"):
                rewind()
                expected = case.logits(network, x)
                rewind()
                with errors_as_broken_promise(f"torch.compile in {mode}"):
                    y = compiled(x)
            error = distance(y, expected)
            expect(error < TOLERANCE, f"the compiled network gives another output in {mode}, off by {error:.1e}")
    finally:
        torch.compiler.reset()


def exports_for_any_batch(case: ArchitectureCase) -> None:
    """The network, exported with a dynamic batch and read back from disk, gives the same output for other batches."""
    network = case.build_randomized()
    with TemporaryDirectory() as folder, errors_as_broken_promise("torch.export"):
        program = export.export(network, (case.random_maps(batch=2),), dynamic_shapes=({0: Dim.DYNAMIC},))
        export.save(program, path := Path(folder, "network.pt2"))
        exported = export.load(path).module()
    for batch in (1, 5):
        x = case.random_maps(batch=batch, seed=batch)
        with errors_as_broken_promise(f"the exported network, for {batch} images"):
            y = exported(x)
        error = distance(y, network(x))
        expect(error < TOLERANCE, f"the exported network gives another output for {batch} images, off by {error:.1e}")
