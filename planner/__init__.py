"""Decides what a query does: text in, a tree of plan nodes out."""

from millstream.planner.lowering import plan_query

__all__ = ["plan_query"]
