"""Metrics computed from the per-image results of a run."""
