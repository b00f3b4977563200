"""What a network costs: parameters, multiply-adds, latency, peak memory.

Counted as multiply-adds (MACs): convolutions (grouped, strided, dilated, transposed), linear layers, every product of
matrices and vectors, scaled-dot-product attention by any kernel, deformable convolutions (ours and torchvision's) and
``grid_sample``: one for each product of the kernel, four for each value that is sampled bilinearly. Not counted:
norms, activations, pooling, resizing, softmax and other elementwise work. Counters differ in what they leave out:
ResNet-50 at 224×224 is 4.089 G here and 4.11 G where batch norm counts too.
Papers mostly print what the counter ``thop`` reports; it can be asked for (``thop.py``).
"""

from saccade.cost.latency import Spread
from saccade.cost.measuring import COUNTERS, Cost, count_macs, measure, measure_all

__all__ = ["COUNTERS", "Cost", "Spread", "count_macs", "measure", "measure_all"]
