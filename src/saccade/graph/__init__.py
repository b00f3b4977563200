"""Analysis of a network from one traced forward pass: its structure, sites and positions."""
