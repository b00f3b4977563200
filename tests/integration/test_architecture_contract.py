"""Small networks of every architecture of the package under the contract."""

import sys

import pytest
from timm.models import model_entrypoint

from saccade import models
from saccade.architecture_files import architectures
from saccade.contract import check_architecture

ENCODER = {"encoder": "resnet10_small", "encoder_options": {"width": 8}}
SHALLOW = {"width": 0.25, "stem_stride": 2, "layers": (1, 1, 1, 1)}
SMALL = {
    "fcn": ENCODER,
    "ran_small": {"width": 0.5, "stem_stride": 2},
    "resnet10_small": {"width": 8},
    "sasa_resnet26": {**SHALLOW, "kernel_size": 3},
    "se_bn_inception": {"width": 0.25, "stem_stride": 2, "reduction": 4},
    "se_resnet50": {**SHALLOW, "reduction": 4},
    "semantic_fpn": {**ENCODER, "width": 0.125},
    "sknet50": SHALLOW,
    "unet": {"encoder": "mobilenetv2_035", "decoder_channels": (16, 8, 8, 8, 8)},
    "vt_fpn": {**ENCODER, "width": 0.125},
    "vt_resnet18": {"width": 0.25, "stem_stride": 2, "layers": (1, 1, 1)},
}
"""Options of one network per file; its image size is 3×32×32."""
OPTIONAL_PROMISES = {"splits_into_features_and_head", "resets_its_classifier", "gives_feature_maps"}
"""Promises about timm's interface of a classifier, which dense networks need not have."""


def test_every_file_is_in_the_table():
    modules = {model_entrypoint(name).__module__.rpartition(".")[2] for name in SMALL}
    detectors = {entry.file for name, entry in architectures().items() if models.is_detector(name)}
    assert modules == set(models.names()) - detectors


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_keeps_every_promise(name):
    function = model_entrypoint(name)
    known_failures = getattr(sys.modules[function.__module__], "KNOWN_FAILURES", {})
    records = check_architecture(function, input_size=(3, 32, 32), options=SMALL[name], known_failures=known_failures)
    allowed = set(known_failures) | (OPTIONAL_PROMISES if models.is_dense(name) else set())
    assert [r for r in records if r.status == "failed" or (r.status == "skipped" and r.promise not in allowed)] == []
