"""Costs of a network: parameters, multiply-adds, latency, peak memory.

Multiply-adds (MACs) are counted for convolutions, linear layers, products of matrices and vectors, attention,
deformable convolutions and ``grid_sample`` (four per bilinear sample). Norms, activations, pooling, resizing, softmax
and other elementwise work are not counted. ResNet-50 at 224×224 has 4.089 G MACs; counters that include batch norm
report 4.11 G. The counter ``thop`` gives the figures that most papers print.
"""

from saccade.cost.latency import LatencySummary
from saccade.cost.measuring import COUNTERS, Cost, count_macs, measure, measure_all

__all__ = ["COUNTERS", "Cost", "LatencySummary", "count_macs", "measure", "measure_all"]
