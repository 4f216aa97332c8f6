"""Where ``unnest`` stands, which makes several rows of one, or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlglot import exp

from millstream.planner.context import PlanContext
from millstream.planner.place import Replace
from millstream.planner.scope import alias_of

__all__ = ["refuse_unnest", "unnest_calls"]


def _nothing(_: exp.Expr) -> str | None:
    return None


def unnest_calls(
    root: exp.Expr,
    replace: Replace = _nothing,
    aliases: Mapping[str, exp.Expr] | None = None,
) -> Iterator[exp.Expr]:
    """Calls of ``unnest`` under ``root``, without those of subqueries.

    Args:
        root: An expression.
        replace: Gives text for what is computed before, in which no call counts.
        aliases: Select list by output name, as far as ``root`` can name it.
    """
    alias = alias_of(root)
    if alias is not None and aliases is not None:
        yield from unnest_calls(aliases[alias], replace, aliases)
        return
    if isinstance(root, exp.Query) or replace(root) is not None:
        return
    if isinstance(root, exp.Anonymous) and str(root.name).lower() == "unnest":
        yield root
        return
    for child in root.iter_expressions():
        yield from unnest_calls(child, replace, aliases)


def refuse_unnest(
    context: PlanContext,
    root: exp.Expr,
    place: str,
    replace: Replace = _nothing,
    aliases: Mapping[str, exp.Expr] | None = None,
) -> None:
    """Check that an expression gives one value for each row.

    Raises:
        SqlError: It makes several rows of one.
    """
    for call in unnest_calls(root, replace, aliases):
        raise context.source.error(
            f"unnest cannot be used in {place}, since it makes several rows of one; put it into a "
            "subquery",
            call,
        )
