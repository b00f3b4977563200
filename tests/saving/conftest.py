"""Fixtures of saved_folders.py."""

from saved_folders import evil, folder, saved, source  # noqa: F401
