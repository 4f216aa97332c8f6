"""Compiled loops over arrays. They know nothing of Arrow, of plans or of threads."""
