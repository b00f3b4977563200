"""Attention mechanisms, one per module; :mod:`saccade.catalog` lists this folder.

The first name in ``__all__`` is the mechanism, a class or a function that builds one. ``SPEC`` is the metadata,
as defined in :mod:`saccade.specs`. The functions ``parameters`` (number of learnable parameters), ``gate`` (range of
the gate), ``neutral`` and ``equivariant`` compute metadata from options. Most mechanisms pass a gate or context
through ``tap``, an nn.Identity for forward hooks. Never rename attributes: saved networks contain the names.
"""
