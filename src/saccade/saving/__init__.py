"""Save a network to a folder with ``model.safetensors`` and ``config.json``, and load it again.

A folder holds data only. A name in ``config.json`` that is neither a network of a known library nor a mechanism of the
catalogue is imported only if the caller trusts it.
"""

from saccade.saving.config import describe as describe
from saccade.saving.hosts import rebuild as rebuild
from saccade.saving.reading import load as load
from saccade.saving.writing import save as save

__all__ = ["describe", "load", "rebuild", "save"]
