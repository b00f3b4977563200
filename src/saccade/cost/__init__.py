"""Costs of a network: parameters, multiply-adds, latency, peak memory.

Multiply-adds (MACs) are counted for convolutions, linear layers, matrix and vector products, attention, deformable
convolutions and ``grid_sample`` (four per bilinear sample); norms, pooling, resizing and elementwise work are not.
ResNet-50 at 224×224 has 4.089 G MACs (4.11 G with batch norm). The counter ``thop`` gives most papers' figures.
"""

from saccade.cost.latency import LatencySummary, Spread
from saccade.cost.measuring import COUNTERS, Cost, count_macs, measure, measure_all

__all__ = ["COUNTERS", "Cost", "LatencySummary", "Spread", "count_macs", "measure", "measure_all"]
