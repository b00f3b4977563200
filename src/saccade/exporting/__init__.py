"""A network as a file that runs without this package: written, read back, and compared before it counts.

Formats: ``onnx``, ``torch`` (a program of ``torch.export``, ``.pt2``) and ``safetensors`` (weights and a
``config.json`` for ``saccade.load``). In the first two, plugs become plain operators.

The program that will run the file (onnxruntime, ``torch.export.load``, ``saccade.load``) reads it from disk and must
compute what the network computes, at three sizes and three numbers of pictures, and at every size for which tracing
assumed something: a forward that asks whether a size is odd leaves in the graph the one answer it was traced with.

A ``.pt2`` written here holds no pickle; ``torch.export.load`` unpickles what a stranger's file brings.
"""

from saccade.exporting.differences import LIMIT
from saccade.exporting.exporter import Exported, export
from saccade.exporting.formats import OPSET
from saccade.exporting.subject import Comparison

__all__ = ["LIMIT", "OPSET", "Comparison", "Exported", "export"]
