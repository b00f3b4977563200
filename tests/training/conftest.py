"""Fixtures of one tiny run, and its images."""

from tiny_runs import split, straight

__all__ = ["split", "straight"]
