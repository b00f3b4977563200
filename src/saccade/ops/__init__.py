"""Optimised tensor functions, each with a reference implementation."""
