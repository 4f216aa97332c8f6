"""Operators: the stateful part of a plan, one module for each kind of node."""
