"""Fixtures of tests that use several modules: hosts, saved networks, one tiny run, sizes of blocks."""

from block_sizes import block

from saved_folders import evil, folder, source
from surgery_hosts import computed, make, pair
from tiny_runs import split, straight

__all__ = ["block", "computed", "evil", "folder", "make", "pair", "source", "split", "straight"]
