"""Tensor functions worth making fast, each beside its plain definition."""
