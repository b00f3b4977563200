"""Fixtures of surgery_hosts.py."""

import logging

import pytest

from surgery_hosts import computed, make, pair  # noqa: F401


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "saccade")
