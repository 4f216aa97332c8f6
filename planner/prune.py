"""Takes columns out of a plan that nobody reads, down to the streams."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa

from millstream.errors import InternalError
from millstream.planner.nodes import (
    WINDOW_COLUMNS,
    Aggregate,
    AssignWindows,
    Changelog,
    Node,
    Over,
    Projection,
    Source,
    Transform,
    Union,
    WindowSelect,
    passing_sql,
    quoted,
)

__all__ = ["prune"]

_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def prune(root: Node) -> Node:
    """Drop unread columns everywhere below ``root``, whose own columns all stay."""
    return _pruned(root, frozenset(root.schema.names))


def _pruned(node: Node, needed: frozenset[str]) -> Node:
    if isinstance(node, Source):
        return replace(node, schema=_subset(node.schema, needed))
    if isinstance(node, Transform):
        return _pruned_transform(node, needed)
    if isinstance(node, Aggregate):
        return _pruned_aggregate(node, needed)
    if isinstance(node, Union):
        branches = tuple(_pruned(branch, needed) for branch in node.branches)
        return replace(node, branches=branches, schema=_subset(node.schema, needed))
    if isinstance(node, Over):
        return _pruned_over(node, needed)
    if isinstance(node, WindowSelect):
        return _pruned_select(node, needed)
    if isinstance(node, AssignWindows):
        below = (needed - set(WINDOW_COLUMNS)) | {node.window.time_column}
        kept = below | set(WINDOW_COLUMNS)
        schema = _subset(node.schema, kept)
        return replace(node, input=_pruned(node.input, below), schema=schema)
    if isinstance(node, Changelog):
        return replace(node, input=_pruned(node.input, frozenset(node.input.schema.names)))
    raise InternalError(f"an exchange before the plan is distributed: {node}")


def _pruned_transform(node: Transform, needed: frozenset[str]) -> Node:
    read = [p for p in node.projections if p.name in needed] or list(node.projections[:1])
    kept = [p for p in node.projections if p in read or p.multiplies]
    texts = [p.sql for p in kept]
    texts.append(node.where or "")
    texts.append(node.from_sql)
    below = frozenset(_named(texts)) & frozenset(node.input.schema.names)
    whole = replace(
        node,
        input=_pruned(node.input, below),
        projections=tuple(kept),
        schema=_subset(node.schema, frozenset(p.name for p in kept)),
    )
    if len(read) == len(kept):
        return whole
    return Transform(
        input=whole,
        projections=tuple(Projection(quoted(p.name), p.name) for p in read),
        where=None,
        schema=_subset(node.schema, frozenset(p.name for p in read)),
        watermark=node.watermark,
    )


def _pruned_aggregate(node: Aggregate, needed: frozenset[str]) -> Node:
    calls = tuple(call for call in node.calls if call.name in needed)
    if not calls and not node.keys and node.window is None:
        calls = node.calls[:1]
    dropped = frozenset(call.name for call in node.calls) - frozenset(call.name for call in calls)
    dropped |= frozenset(node.window_columns) - needed
    below = set(node.keys)
    if node.window is not None:
        below.add(node.window.time_column)
    for call in calls:
        below.update(call.arguments)
        below.update(key.column for key in call.order_by)
    if not below:
        below.add(node.input.schema.names[0])
    return replace(
        node,
        input=_pruned(node.input, frozenset(below)),
        calls=calls,
        schema=_subset(node.schema, frozenset(node.schema.names) - dropped),
    )


def _pruned_over(node: Over, needed: frozenset[str]) -> Node:
    calls = tuple(call for call in node.calls if call.name in needed)
    own = {call.name for call in node.calls}
    below = {*(needed - own), *node.keys}
    if not calls:
        return _pruned(node.input, frozenset(below))
    for call in calls:
        below.update(call.arguments)
    if node.order_column is not None:
        below.add(node.order_column)
    if not below:
        below.add(node.input.schema.names[0])
    kept = frozenset(below) | {call.name for call in calls}
    source = _pruned(node.input, frozenset(below))
    return replace(node, input=source, calls=calls, schema=_subset(node.schema, kept))


def _pruned_select(node: WindowSelect, needed: frozenset[str]) -> Node:
    """Keep the select's own columns; those of its input go where it passes them on."""
    names = node.input.schema.names
    if node.computed is None:
        return replace(node, input=_pruned(node.input, frozenset(names)))
    texts = [projection.sql for projection in node.computed]
    below = (needed | _named(texts) | {node.window_end_column, *node.keys}) & frozenset(names)
    own = frozenset(projection.name for projection in node.computed)
    return replace(
        node,
        input=_pruned(node.input, below),
        sql=passing_sql([name for name in names if name in below], node.computed),
        schema=_subset(node.schema, below | own),
    )


def _subset(schema: pa.Schema, names: frozenset[str]) -> pa.Schema:
    """The fields among ``names``, or the first one where none is, since a batch needs a column."""
    fields = [field for field in schema if field.name in names]
    return pa.schema(fields or [schema.field(0)])


def _named(texts: Iterable[str]) -> set[str]:
    """Every quoted identifier: the planner quotes all columns, so this misses none."""
    return {name.replace('""', '"') for text in texts for name in _QUOTED.findall(text)}
