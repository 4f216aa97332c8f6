"""The SQL dialect: what sqlglot needs to be told so that a query comes out of it as it went in.

The parser gives the structure of a query; the words of its expressions are taken from the text
itself. So the parser notes for each expression which tokens it stands for, and knows no function by
name except those with a grammar of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokens import TokenType

from millstream.errors import SqlError
from millstream.planner.place import SPAN, SourceText, line_and_column
from millstream.planner.streaming_clauses import StreamingClauses
from millstream.planner.whole_clauses import WholeClauses

__all__ = ["MillstreamDialect", "parse_statement", "partitioning_hint"]

_WORDED_FUNCTIONS = ("CAST", "TRY_CAST", "EXTRACT", "SUBSTRING", "TRIM", "POSITION", "OVERLAY")
_WORDED_PREFIXES = ("CASE", "ANY")

_TERM_SETS: Mapping[TokenType, type[exp.Cube | exp.Rollup]] = {
    TokenType.CUBE: exp.Cube,
    TokenType.ROLLUP: exp.Rollup,
}
_HINT = re.compile(r"partitioning\s*\(\s*(\w+)\s*\)", re.IGNORECASE)
_FIRST_TOKENS = (TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN)


class MillstreamParser(StreamingClauses, WholeClauses, PostgresParser):
    """Notes the tokens of each expression and leaves functions alone."""

    FUNC_TOKENS: ClassVar[set[TokenType]] = {*PostgresParser.FUNC_TOKENS, TokenType.SESSION}
    # DataFusion has one level of comparisons, four of operators on bits, and || among the factors.
    COMPARISON: ClassVar[Any] = {**PostgresParser.EQUALITY, **PostgresParser.COMPARISON}
    EQUALITY: ClassVar[Any] = {}
    BITWISE: ClassVar[Any] = {TokenType.PIPE: exp.BitwiseOr}
    FACTOR: ClassVar[Any] = {**PostgresParser.FACTOR, TokenType.DPIPE: exp.DPipe}
    EXPONENT: ClassVar[Any] = {}
    FUNCTIONS: ClassVar[dict[str, Any]] = {}
    FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
        name: parser
        for name, parser in PostgresParser.FUNCTION_PARSERS.items()
        if name in _WORDED_FUNCTIONS
    }
    NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
        name: parser
        for name, parser in PostgresParser.NO_PAREN_FUNCTION_PARSERS.items()
        if name in _WORDED_PREFIXES
    }

    def _warn_unsupported(self) -> None:
        """Say nothing: what is not supported is refused, not logged."""

    def _parse_cube_or_rollup(self, with_prefix: bool = False) -> Any:
        if with_prefix or self._curr.token_type not in _TERM_SETS:
            return super()._parse_cube_or_rollup(with_prefix)
        kind = _TERM_SETS[self._curr.token_type]
        self._advance()
        # Any expression can be a term, not only such without comparisons.
        return kind(expressions=self._parse_wrapped_csv(self._parse_disjunction))

    def _parse_grouping_set(self) -> Any:
        return (
            self._parse_grouping_sets() or self._parse_cube_or_rollup() or self._parse_disjunction()
        )

    def _noted(self, start: int, node: Any) -> Any:
        if isinstance(node, exp.Expr) and self._index > start:
            node.meta[SPAN] = (start, self._index - 1)
        return node

    def _parse_disjunction(self) -> Any:
        return self._noted(self._index, super()._parse_disjunction())

    def _parse_conjunction(self) -> Any:
        return self._noted(self._index, super()._parse_conjunction())

    def _parse_equality(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted(self._index, super()._parse_equality(*args, **kwargs))

    def _parse_is_rhs(self, distinct: bool = False) -> Any:
        # DataFusion takes all that follows IS DISTINCT FROM, even what stands after AND.
        return self._parse_disjunction() if distinct else super()._parse_is_rhs(distinct)

    def _parse_bitwise(self) -> Any:
        return self._noted(self._index, super()._parse_bitwise())

    def _parse_term(self, *args: Any, **kwargs: Any) -> Any:
        """An operand of ``|``: DataFusion binds ``^`` and shifts tighter, and ``&`` than these."""
        this = self._parse_and_of_bits(*args, **kwargs)
        while True:
            if self._match_set((TokenType.CARET, TokenType.HASH)):
                kind: type[exp.Expr] = exp.BitwiseXor
            elif self._match_pair(TokenType.LT, TokenType.LT):
                kind = exp.BitwiseLeftShift
            elif self._match_pair(TokenType.GT, TokenType.GT):
                kind = exp.BitwiseRightShift
            else:
                return this
            this = kind(this=this, expression=self._parse_and_of_bits(*args, **kwargs))

    def _parse_and_of_bits(self, *args: Any, **kwargs: Any) -> Any:
        this = super()._parse_term(*args, **kwargs)
        while self._match(TokenType.AMP):
            this = exp.BitwiseAnd(this=this, expression=super()._parse_term(*args, **kwargs))
        return this

    def _parse_unary(self) -> Any:
        return self._noted(self._index, super()._parse_unary())

    def _parse_column(self) -> Any:
        return self._noted(self._index, super()._parse_column())

    def _parse_column_reference(self) -> Any:
        return self._noted(self._index, super()._parse_column_reference())

    def _parse_atom(self) -> Any:
        return self._noted(self._index, super()._parse_atom())

    def _parse_function_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted(self._index, super()._parse_function_call(*args, **kwargs))

    def _parse_id_var(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted(self._index, super()._parse_id_var(*args, **kwargs))


class MillstreamDialect(Postgres):
    """Postgres' grammar with the names, types and functions of DataFusion."""

    class Tokenizer(Postgres.Tokenizer):
        """Knows FLOAT as the type of single precision that it is in DataFusion."""

        KEYWORDS: ClassVar[dict[str, TokenType]] = {
            **Postgres.Tokenizer.KEYWORDS,
            "FLOAT": TokenType.FLOAT,
        }

    Parser = MillstreamParser


def parse_statement(sql: str) -> tuple[exp.Expr, SourceText]:
    """Parse one statement.

    Raises:
        SqlError: The text is empty, holds several statements or is not SQL as Millstream knows it.
    """
    dialect = MillstreamDialect()
    try:
        tokens = dialect.tokenize(sql)
    except TokenError as error:
        raise _token_error(sql, error) from error
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    if not tokens:
        raise SqlError("the query is empty; write a SELECT", sql=sql)
    source = SourceText(sql, tokens)
    _check_tokens(source)
    try:
        tree = dialect.parser().parse(tokens, sql)[0]
    except ParseError as error:
        raise _syntax_error(source, error) from error
    assert tree is not None
    return tree, source


def _check_tokens(source: SourceText) -> None:
    if source.tokens[0].token_type not in _FIRST_TOKENS:
        word = source.text((0, 0))
        raise source.error(
            f"only queries can be run, which begin with SELECT, WITH or EXPLAIN: {word}", (0, 0)
        )
    for index, token in enumerate(source.tokens):
        if token.token_type == TokenType.SEMICOLON:
            raise source.error("only one statement can be run at a time", (index, index))
        for comment in token.comments:
            if comment.startswith("+"):
                _check_hint(source, comment, index)


def partitioning_hint(source: SourceText) -> str | None:
    """Return the strategy that a hint such as ``/*+ partitioning(sticky) */`` asks for."""
    for token in source.tokens:
        for comment in token.comments:
            found = _HINT.fullmatch(comment.removeprefix("+").strip())
            if comment.startswith("+") and found is not None:
                return found[1].lower()
    return None


def _check_hint(source: SourceText, comment: str, index: int) -> None:
    hint = comment.removeprefix("+").strip()
    found = _HINT.fullmatch(hint)
    if found is None:
        raise source.error(
            f"unknown hint {hint!r}; the only one is partitioning(strategy)", (index, index)
        )
    earlier = source.tokens[:index]
    if any(other.startswith("+") for token in earlier for other in token.comments):
        raise source.error("a query has one partitioning hint at most", (index, index))


def _token_error(sql: str, error: TokenError) -> SqlError:
    detail = re.match(r"Missing (.+) from \d+:(\d+)", str(error.__cause__ or error))
    if detail is None and isinstance(error.__cause__, IndexError) and "/*" in sql:
        line, column = line_and_column(sql, sql.rindex("/*"))
        return SqlError("syntax error: */ is missing", sql=sql, line=line, column=column)
    if detail is None:
        return SqlError("the text cannot be read as SQL", sql=sql)
    line, column = line_and_column(sql, int(detail[2]))
    return SqlError(f"syntax error: {detail[1]} is missing", sql=sql, line=line, column=column)


def _syntax_error(source: SourceText, error: ParseError) -> SqlError:
    detail = error.errors[0] if error.errors else {}
    description = str(detail.get("description") or "").rstrip(".")
    place = (detail.get("line"), detail.get("col"))
    index = next(
        (i for i, token in enumerate(source.tokens) if (token.line, token.col) == place),
        len(source.tokens) - 1,
    )
    token = source.tokens[index]
    word = source.sql[token.start : token.end + 1]
    return source.error(f"syntax error at {word!r}: {_readable(description)}", (index, index))


def _readable(description: str) -> str:
    """A message of the parser in words of SQL."""
    if description.startswith("Required keyword"):
        return "an expression is missing here"
    wanted = re.match(r"Expected table name but got", description)
    if wanted:
        return "the name of a stream is expected"
    if not description or description.startswith("Invalid expression"):
        return "this does not fit here"
    keyword_first = description[1:2].isupper()
    return description if keyword_first else description[:1].lower() + description[1:]
