"""What a network costs: parameters, multiply-adds, latency, peak memory.

Multiply-adds (MACs) of: convolutions of all kinds, linear layers, products of matrices and vectors, attention,
deformable convolutions and ``grid_sample`` (one for each product of the kernel, four for each value sampled
bilinearly). Not counted: norms, activations, pooling, resizing, softmax and other elementwise work. ResNet-50 at
224×224 is 4.089 G; counters that include batch norm say 4.11 G. The counter ``thop`` gives what most papers print.
"""

from saccade.cost.latency import Spread
from saccade.cost.measuring import COUNTERS, Cost, count_macs, measure, measure_all

__all__ = ["COUNTERS", "Cost", "Spread", "count_macs", "measure", "measure_all"]
