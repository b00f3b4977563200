"""Score tables: writing those of a study, reading those of other trainers."""
