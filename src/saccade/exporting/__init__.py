"""Export a network to a file, and verify the file's outputs against the network's.

Formats: ``onnx``, ``torch`` (a program of ``torch.export``, ``.pt2``) and ``safetensors`` (weights and a
``config.json`` for ``saccade.load``). In ``onnx`` and ``torch`` files, plugs become plain operators.

The outputs of the format's runtime (onnxruntime, ``torch.export.load``, ``saccade.load``) must agree with the network's
within LIMIT, at several image and batch sizes if these are dynamic.

A ``.pt2`` written here contains no pickle, but do not load others from untrusted sources: ``torch.export.load`` may
unpickle them.
"""

from saccade.exporting.differences import LIMIT
from saccade.exporting.export_source import Comparison
from saccade.exporting.exporter import Exported, export
from saccade.exporting.formats import OPSET

__all__ = ["LIMIT", "OPSET", "Comparison", "Exported", "export"]
