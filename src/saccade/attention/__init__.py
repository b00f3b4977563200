"""Attention mechanisms, one per module; :mod:`saccade.catalog` lists this folder.

The first class of ``__all__`` is the mechanism, ``SPEC`` its metadata; :mod:`saccade.specs` defines the keys and their
words. The functions ``parameters`` (number of learnable parameters), ``gate`` (range of the gate), ``neutral`` and
``equivariant`` compute metadata from options. A mechanism passes its gate or context through ``tap``, an nn.Identity
for forward hooks. Never rename attributes: saved networks contain their names.
"""
