"""No log below errors; the table of ONNX operators is made once, not at every export, which takes a second."""

import functools
import logging

import pytest
from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]


@pytest.fixture(autouse=True, scope="session")
def _operators_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", functools.cache(onnxscript_apis.get_torchlib_ops))
        yield


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, "saccade")
