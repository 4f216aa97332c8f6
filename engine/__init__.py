"""Runs plans: inputs, exchanges, operators with their state, and sinks."""
