"""Scores as tables: those of a study written, those of other trainers read."""
