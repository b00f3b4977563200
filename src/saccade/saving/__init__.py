"""A network on disk, and back: ``model.safetensors`` and ``config.json``, which says how to rebuild it.

A folder is data, never code: ``config.json`` may name what is listed, and its size is known before anything is built.
"""

from saccade.saving.config import describe as describe
from saccade.saving.hosts import rebuild as rebuild
from saccade.saving.reading import load as load
from saccade.saving.writing import save as save

__all__ = ["describe", "load", "rebuild", "save"]
