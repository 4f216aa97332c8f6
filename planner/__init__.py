"""Decides what a query does: text in, a tree of plan nodes out."""

from millstream.planner.distribute import distribute
from millstream.planner.explain import explain
from millstream.planner.lowering import plan_query

__all__ = ["distribute", "explain", "plan_query"]
