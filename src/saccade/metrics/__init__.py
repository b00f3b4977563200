"""Scores as pure functions of rows, and what is stated about each."""
