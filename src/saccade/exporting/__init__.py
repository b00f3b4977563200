"""Export a network to a file, and verify the file's outputs against the network's.

Formats: ``onnx``, ``torch`` (a program of ``torch.export``, ``.pt2``) and ``safetensors`` (weights and a
``config.json`` for ``saccade.load``). In the first two, plugs become plain operators.

The runtime of the format (onnxruntime, ``torch.export.load``, ``saccade.load``) reads the file from disk. Its outputs
must equal the network's at three image sizes and three batch sizes, and at sizes that violate a guard of the trace.

A ``.pt2`` written here contains no pickle. Do not load ``.pt2`` files of others: ``torch.export.load`` unpickles them.
"""

from saccade.exporting.differences import LIMIT
from saccade.exporting.export_source import Comparison
from saccade.exporting.exporter import Exported, export
from saccade.exporting.formats import OPSET

__all__ = ["LIMIT", "OPSET", "Comparison", "Exported", "export"]
