"""The names under which networks pickled by earlier versions know :mod:`saccade.parent_class`."""

from saccade.parent_class import beginning_hook, catching_hook, entering_hook, leaving_hook, rebuild

__all__ = ["beginning_hook", "catching_hook", "entering_hook", "leaving_hook"]

_rebuild = rebuild
