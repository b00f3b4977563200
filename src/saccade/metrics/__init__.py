"""Metrics computed from the per-image results of a run, and scores of heat maps."""

from __future__ import annotations

from saccade.metrics.gaze import centre_agreement, gaze_agreement
from saccade.metrics.localisation import best_iou, box_region, iou_by_threshold, pointing_game
from saccade.metrics.sfd import SfdSweep, sfd, sfd_sweep

__all__ = [
    "SfdSweep", "best_iou", "box_region", "centre_agreement", "gaze_agreement", "iou_by_threshold", "pointing_game",
    "sfd", "sfd_sweep",
]  # fmt: skip
