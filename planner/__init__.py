"""Decides what a query does: text in, a tree of plan nodes out."""

from millstream.planner.distribute import Placement, distribute
from millstream.planner.explain import explain
from millstream.planner.lowering import plan_query

__all__ = ["Placement", "distribute", "explain", "plan_query"]
