"""Save a network to a folder and load it again.

The folder contains ``model.safetensors`` and ``config.json``, which describes how to rebuild the network. A folder is
data, never code: ``config.json`` may name only networks of known libraries and mechanisms of the catalogue, and the
size of the network is checked before anything is built.
"""

from saccade.saving.config import describe as describe
from saccade.saving.hosts import rebuild as rebuild
from saccade.saving.reading import load as load
from saccade.saving.writing import save as save

__all__ = ["describe", "load", "rebuild", "save"]
