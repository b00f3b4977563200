"""No log below errors."""

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "saccade")
