"""Examples to run: ``python -m millstream.examples.<name>``."""
