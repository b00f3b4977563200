"""Attention mechanisms, one per module; :mod:`saccade.catalog` lists this folder.

The first class of ``__all__`` is the mechanism, ``SPEC`` its metadata (see :mod:`saccade.specs`). The functions
``parameters`` (number of learnable parameters), ``gate`` (its range), ``neutral`` and ``equivariant`` compute metadata
from options. Hooks on ``tap`` can read the gate or context. Saved networks contain attribute names, so these never
change.
"""
