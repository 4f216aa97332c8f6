"""Two transforms in a row made one, where the SQL of the outer one can be rewritten safely."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from millstream.planner.nodes import Projection, Transform, quoted

__all__ = ["merged"]

# Strings are matched so that what looks like a name inside them is left alone.
_WORD = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)\"""")


def merged(outer: Transform) -> Transform:
    """Compute ``outer`` over its input's input where that is one too and nothing is done twice.

    Columns that the inner transform computes may be used once; those that it merely picks, freely.
    """
    inner = outer.input
    if not isinstance(inner, Transform) or outer.tables:
        return outer
    if any(projection.multiplies for projection in inner.projections):
        # What is outside is about the rows that come of it, and must not leave it out.
        return outer
    if inner.tables and outer.picks is None:
        # A condition could not tell apart columns of the input and of the tables by name alone.
        return outer
    texts = [projection.sql for projection in outer.projections]
    if outer.where is not None:
        texts.append(outer.where)
    if any("$" in text or "\\" in text for text in texts):
        # Strings in dollars or with escapes would need a tokenizer to be told from names.
        return outer
    picked = {quoted(name) for name in inner.input.schema.names}
    computed = {projection.name: projection.sql for projection in inner.projections}
    uses = Counter(name for text in texts for name in _names(text) if name in computed)
    if any(count > 1 and computed[name] not in picked for name, count in uses.items()):
        return outer
    conditions = [inner.where, None if outer.where is None else _over(outer.where, computed)]
    return replace(
        inner,
        projections=tuple(Projection(_over(p.sql, computed), p.name) for p in outer.projections),
        where=_conjunction(conditions),
        schema=outer.schema,
    )


def _names(text: str) -> list[str]:
    return [m[1].replace('""', '"') for m in _WORD.finditer(text) if m[1] is not None]


def _over(text: str, computed: Mapping[str, str]) -> str:
    """The text with columns of the inner transform written out."""

    def written_out(match: re.Match[str]) -> str:
        name = None if match[1] is None else match[1].replace('""', '"')
        sql = None if name is None else computed.get(name)
        if sql is None:
            return match[0]
        alone = match[0] == text or _WORD.fullmatch(sql) is not None
        return sql if alone else f"({sql})"

    return _WORD.sub(written_out, text)


def _conjunction(conditions: list[str | None]) -> str | None:
    present = [condition for condition in conditions if condition is not None]
    if len(present) < 2:
        return present[0] if present else None
    return " AND ".join(f"({condition})" for condition in present)
