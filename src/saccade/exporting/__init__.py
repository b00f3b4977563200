"""A network as a file that runs without this package: written, read back, compared, and only then said done.

Three formats: ``onnx``, ``torch`` (a program of ``torch.export``, ``.pt2``) and ``safetensors`` (weights and a
``config.json``, which ``saccade.load`` rebuilds). Plugs are traced with the host; what the first two hold is plain
operators.

The file is read from disk by the program that will run it (onnxruntime, ``torch.export.load``, ``saccade.load``) and
must compute what the network computes in PyTorch, at three sizes and three numbers of pictures, and at every size for
which tracing took something for granted. Tracing alone does not promise that: a forward that asks whether a size is odd
leaves in the graph the one answer it was traced with.

A ``.pt2`` written here holds JSON and the bytes of the weights, and no pickle. That is a promise about our own files:
``torch.export.load`` unpickles what a stranger's file brings.
"""

from saccade.exporting.differences import LIMIT
from saccade.exporting.exporter import Exported, export
from saccade.exporting.formats import OPSET
from saccade.exporting.subject import Comparison

__all__ = ["LIMIT", "OPSET", "Comparison", "Exported", "export"]
