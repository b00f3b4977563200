"""Reading a network: one traced forward, its structure, its sites and positions. Nothing is changed."""
