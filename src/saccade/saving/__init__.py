"""Save a network to a folder with ``model.safetensors`` and ``config.json``, and load it again.

A folder is data, never code: ``config.json`` may name only networks of known libraries and mechanisms of the catalogue.
"""

from saccade.saving.config import describe as describe
from saccade.saving.hosts import rebuild as rebuild
from saccade.saving.reading import load as load
from saccade.saving.writing import save as save

__all__ = ["describe", "load", "rebuild", "save"]
