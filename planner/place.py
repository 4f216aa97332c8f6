"""The query text beside its tree: which words a node stands for, and errors that point at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from millstream.errors import InternalError, SqlError

__all__ = ["SPAN", "Replace", "SourceText", "Span", "span_of", "unwrapped"]

SPAN = "millstream_span"

Span: TypeAlias = tuple[int, int]
Replace: TypeAlias = Callable[[exp.Expr], str | None]


def span_of(node: exp.Expr) -> Span | None:
    """First and last token of ``node``, both included, or None where the parser did not note them.

    Chains of operators such as ``a + b + c`` are noted as a whole only; the span of ``a + b``
    follows from its operands. Not so in ``a IS NOT TRUE`` and ``a !~ b``: what is negated there has
    no words of its own.
    """
    span: Span | None = node.meta.get(SPAN)
    if span is None and isinstance(node, exp.Binary) and not isinstance(node.parent, exp.Not):
        left, right = span_of(node.left), span_of(node.right)
        if left is not None and right is not None:
            return (left[0], right[1])
    return span


def unwrapped(node: exp.Expr) -> exp.Expr:
    """The expression in any parentheses; those of a subquery belong to it."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


@dataclass(frozen=True, slots=True)
class SourceText:
    """The text of a query and its tokens.

    Expressions reach DataFusion in the user's own words, token by token: only what the planner has
    to rename is replaced. Comments and line breaks are dropped on the way.
    """

    sql: str
    tokens: Sequence[Token]

    def error(self, reason: str, at: exp.Expr | Span | int | None) -> SqlError:
        """Make the error that points at a node, a token span or an offset of the text."""
        offset = at if isinstance(at, int) else self._offset(at)
        if offset is None:
            return SqlError(reason, sql=self.sql)
        line, column = line_and_column(self.sql, offset)
        return SqlError(reason, sql=self.sql, line=line, column=column)

    def text(self, span: Span) -> str:
        """The words of a span, single-spaced where the text has space between them."""
        return "".join(map(self._word, range(span[0], span[1] + 1))).strip()

    def name(self, span: Span) -> str:
        """The words of a span in lower case, except strings and quoted names."""
        words = (
            self._word(index) if _keeps_case(self.tokens[index]) else self._word(index).lower()
            for index in range(span[0], span[1] + 1)
        )
        return "".join(words).strip()

    def splice(self, root: exp.Expr, replace: Replace) -> str:
        """The text of ``root`` with the topmost nodes for which ``replace`` gives text put in.

        Raises:
            InternalError: A node to be replaced has no place in the text.
        """
        span = span_of(root)
        found: list[tuple[Span, str]] = []
        _collect(root, replace, found)
        if span is None:
            if len(found) == 1 and span_of(root) is None and replace(root) is not None:
                return found[0][1]
            raise InternalError(f"no place in the text is known for {type(root).__name__}")
        return self._spliced(span, found)

    def _spliced(self, span: Span, found: list[tuple[Span, str]]) -> str:
        words: list[str] = []
        position = span[0]
        for (first, last), text in sorted(found):
            words.extend(map(self._word, range(position, first)))
            words.append(self._space(first) + text)
            position = last + 1
        words.extend(map(self._word, range(position, span[1] + 1)))
        return "".join(words).strip()

    def splice_call(self, over: exp.Window, replace: Replace) -> str:
        """The text of a call without the OVER clause that follows it."""
        span = span_of(over)
        if span is None:
            raise InternalError("no place in the text is known for a call with OVER")
        found: list[tuple[Span, str]] = []
        _collect(over.this, replace, found)
        return self._spliced((span[0], self._call_end(span)), found)

    def _call_end(self, span: Span) -> int:
        """Last token before the OVER that belongs to the call which begins the span."""
        depth = 0
        for index in range(span[0], span[1] + 1):
            kind = self.tokens[index].token_type
            depth += (kind == TokenType.L_PAREN) - (kind == TokenType.R_PAREN)
            if depth == 0 and kind == TokenType.OVER:
                return index - 1
        raise InternalError("a call with OVER has no OVER in the text")

    def _word(self, index: int) -> str:
        token = self.tokens[index]
        return self._space(index) + self.sql[token.start : token.end + 1]

    def _space(self, index: int) -> str:
        """One blank if anything stands between a token and the one before it, such as a comment."""
        follows = index > 0 and self.tokens[index].start > self.tokens[index - 1].end + 1
        return " " if follows else ""

    def _offset(self, at: exp.Expr | Span | None) -> int | None:
        if at is None:
            return None
        if isinstance(at, tuple):
            return self.tokens[at[0]].start
        starts = [
            self.tokens[span[0]].start if span is not None else node.meta["start"]
            for node in at.walk()
            if (span := span_of(node)) is not None or "start" in node.meta
        ]
        return min(starts, default=None)


def line_and_column(sql: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of an offset into ``sql``."""
    before = sql[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _collect(node: exp.Expr, replace: Replace, found: list[tuple[Span, str]]) -> None:
    text = replace(node)
    if text is None:
        for child in node.iter_expressions():
            _collect(child, replace, found)
        return
    span = span_of(node)
    if span is None:
        raise InternalError(f"no place in the text is known for {type(node).__name__}")
    found.append((span, text))


def _keeps_case(token: Token) -> bool:
    return token.token_type in (TokenType.STRING, TokenType.IDENTIFIER)
