"""Fixtures of several operators."""

from block_sizes import block, piece

__all__ = ["block", "piece"]
