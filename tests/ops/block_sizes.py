"""Fixtures that shrink the blocks of operators, so that small maps are cut into several."""

import pytest

from saccade.ops import attention, eager

__all__ = ["block", "piece"]


@pytest.fixture(params=[2**20, 700, 1], ids=["one block", "ragged blocks", "row by row"])
def block(request, monkeypatch):
    """Blocks of attention weights: all at once, several of unlike sizes, one row each."""
    monkeypatch.setattr(attention, "_BLOCK_NUMEL", request.param)
    monkeypatch.setattr(attention, "_SAVED_BLOCK_NUMEL", request.param)


@pytest.fixture(params=[7, 32, 1 << 18], ids=["7 values", "32 values", "at once"])
def piece(request, monkeypatch):
    """Pieces of a gated map: a few values, an image or two, all."""
    monkeypatch.setattr(eager, "PIECE_NUMEL", request.param)
