"""Fixtures that tests of several packages share with tests of one package."""

from saved_folders import evil, folder, source  # noqa: F401
from surgery_hosts import computed, make, pair  # noqa: F401
