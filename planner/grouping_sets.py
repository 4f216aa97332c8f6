"""The terms of GROUP BY: expressions, positions, aliases, windows, and the sets that they form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sqlglot import exp

from millstream.planner.aggregates import aggregate_calls
from millstream.planner.context import PlanContext
from millstream.planner.from_clause import From
from millstream.planner.place import unwrapped
from millstream.planner.scope import bound_sql, identifier_name, window_role
from millstream.planner.unnest import refuse_unnest
from millstream.planner.windows import is_group_window

__all__ = ["GroupTerms", "read_group_terms"]

_SETS_MAX = 64


@dataclass(frozen=True, slots=True)
class GroupTerms:
    """What a block groups by.

    Attributes:
        keys: All expressions, bound; window columns among them.
        windows: Windows written as expressions.
        sets: Keys of each grouping set; one None where there is a plain list only.
    """

    keys: tuple[exp.Expr, ...]
    windows: tuple[exp.Anonymous, ...]
    sets: tuple[frozenset[exp.Expr] | None, ...]


def read_group_terms(
    context: PlanContext,
    select: exp.Select,
    source: From,
    aliases: Mapping[str, exp.Expr],
    roots: Sequence[exp.Expr],
) -> GroupTerms:
    """Read and bind GROUP BY.

    Raises:
        SqlError: A term is no expression that rows can be grouped by.
    """
    clause = select.args.get("group")
    if clause is None:
        return GroupTerms((), (), (None,))
    reader = _Reader(context, source, aliases, roots)
    if clause.args.get("all") is False:
        raise context.source.error("GROUP BY DISTINCT is not supported", clause)
    if clause.args.get("all"):
        for term in clause.expressions:
            raise context.source.error("GROUP BY ALL takes no terms", term)
        keys = [unwrapped(root) for root in roots if not any(aggregate_calls(context, root))]
        return GroupTerms(tuple(dict.fromkeys(keys)), (), (None,))
    for key, value in clause.args.items():
        if value and key not in ("expressions", "all"):
            raise context.source.error(
                f"WITH {key.upper()} is not supported; write {key}()", clause
            )
    windows = [term for term in clause.expressions if is_group_window(term)]
    factors = [reader.sets(term) for term in clause.expressions if not is_group_window(term)]
    sets = _product(context, clause, factors)
    keys = [term for kept in factors for group in kept for term in group]
    plain = all(not isinstance(t, _SETS) for t in clause.expressions)
    for key in keys if len(sets) > 1 else ():
        refuse_unnest(context, key, "grouping sets")
    # A window's columns belong to every set, since rows are never grouped across windows.
    window_keys = {term for term in keys if window_role(term) is not None}
    return GroupTerms(
        keys=tuple(dict.fromkeys(keys)),
        windows=tuple(window for window in windows if isinstance(window, exp.Anonymous)),
        sets=(None,) if plain else tuple(frozenset(kept) | window_keys for kept in sets),
    )


_SETS = (exp.GroupingSets, exp.Rollup, exp.Cube)

_Set = tuple[exp.Expr, ...]


def _product(
    context: PlanContext, clause: exp.Expr, factors: Sequence[Sequence[_Set]]
) -> list[_Set]:
    """Every choice of one set per term, joined."""
    sets: list[_Set] = [()]
    for factor in factors:
        sets = [(*left, *right) for left in sets for right in factor]
        if len(sets) > _SETS_MAX:
            raise context.source.error(
                f"a query can have {_SETS_MAX} grouping sets at most", clause
            )
    return sets


@dataclass(frozen=True, slots=True)
class _Reader:
    context: PlanContext
    source: From
    aliases: Mapping[str, exp.Expr]
    roots: Sequence[exp.Expr]

    def sets(self, term: exp.Expr) -> list[_Set]:
        """The grouping sets that one term of GROUP BY stands for."""
        if isinstance(term, exp.GroupingSets):
            return [kept for part in term.expressions for kept in self._set_list(part)]
        if isinstance(term, exp.Rollup):
            parts = [self._set(part) for part in term.expressions]
            return [_joined(parts[:count]) for count in range(len(parts), -1, -1)]
        if isinstance(term, exp.Cube):
            parts = [self._set(part) for part in term.expressions]
            return [
                _joined(chosen)
                for count in range(len(parts), -1, -1)
                for chosen in combinations(parts, count)
            ]
        return [self._set(term)]

    def _set_list(self, part: exp.Expr) -> list[_Set]:
        return self.sets(part) if isinstance(part, _SETS) else [self._set(part)]

    def _set(self, part: exp.Expr) -> _Set:
        if isinstance(part, exp.Tuple):
            return tuple(self._term(term) for term in part.expressions)
        return (self._term(part),)

    def _term(self, written: exp.Expr) -> exp.Expr:
        if is_group_window(unwrapped(written)):
            raise self.context.source.error("a window belongs to all grouping sets", written)
        term = self._resolved(unwrapped(written))
        self.source.scope.bind(term)
        for parts in aggregate_calls(self.context, term):
            raise self.context.source.error(
                f"{parts.function} is an aggregate and cannot be grouped by", written
            )
        return term

    def _resolved(self, term: exp.Expr) -> exp.Expr:
        if isinstance(term, exp.Literal) and not term.is_string:
            text = str(term.this)
            if not text.isdigit() or not 1 <= int(text) <= len(self.roots):
                raise self.context.source.error(
                    f"GROUP BY position must be from 1 to {len(self.roots)}: {text}", term
                )
            return unwrapped(self.roots[int(text) - 1])
        if isinstance(term, exp.Column) and len(term.parts) == 1 and bound_sql(term) is None:
            name = identifier_name(term.this)
            if name in self.aliases and not self.source.scope.knows(name):
                return unwrapped(self.aliases[name])
        return term


def _joined(parts: Sequence[_Set]) -> _Set:
    return tuple(term for part in parts for term in part)
