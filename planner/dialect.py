"""The SQL dialect: what sqlglot needs to be told so that a query comes out of it as it went in.

The parser gives the structure of a query; the words of its expressions are taken from the text itself.
So the parser notes for each expression which tokens it stands for, and knows no function by name except
those with a grammar of their own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlglot import exp, tokens
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokens import Token, TokenType

from millstream.errors import SqlError
from millstream.planner.place import SPAN, SourceText, line_and_column
from millstream.planner.streaming_clauses import StreamingClauses

__all__ = ["MillstreamDialect", "parse_statement"]

_WORDED_FUNCTIONS = ("CAST", "TRY_CAST", "EXTRACT", "SUBSTRING", "TRIM", "POSITION", "OVERLAY")
_WORDED_PREFIXES = ("CASE", "ANY")


class MillstreamParser(StreamingClauses, PostgresParser):
    """Notes the tokens of each expression and leaves functions alone."""

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

    def _parse_bitwise(self) -> Any:
        return self._noted(self._index, super()._parse_bitwise())

    def _parse_unary(self) -> Any:
        return self._noted(self._index, super()._parse_unary())

    def _parse_column(self) -> Any:
        return self._noted(self._index, super()._parse_column())

    def _parse_function_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted(self._index, super()._parse_function_call(*args, **kwargs))

    def _parse_id_var(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted(self._index, super()._parse_id_var(*args, **kwargs))


class MillstreamDialect(Postgres):
    """Postgres' grammar with the names and functions of DataFusion."""

    class Tokenizer(tokens.Tokenizer):
        """Takes the tokens of Postgres, with comments before keywords kept apart."""

        BIT_STRINGS = Postgres.Tokenizer.BIT_STRINGS
        HEX_STRINGS = Postgres.Tokenizer.HEX_STRINGS
        BYTE_STRINGS = Postgres.Tokenizer.BYTE_STRINGS
        BYTE_STRING_ESCAPES = Postgres.Tokenizer.BYTE_STRING_ESCAPES
        HEREDOC_STRINGS = Postgres.Tokenizer.HEREDOC_STRINGS
        HEREDOC_TAG_IS_IDENTIFIER = True
        HEREDOC_STRING_ALTERNATIVE = TokenType.PARAMETER
        KEYWORDS = {
            **{
                word: kind
                for word, kind in Postgres.Tokenizer.KEYWORDS.items()
                if not word.startswith(("{%", "{{"))
            },
        }
        SINGLE_TOKENS = Postgres.Tokenizer.SINGLE_TOKENS
        VAR_SINGLE_TOKENS = Postgres.Tokenizer.VAR_SINGLE_TOKENS

    Parser = MillstreamParser


def parse_statement(sql: str) -> tuple[exp.Expr, SourceText]:
    """Parse one statement.

    Raises:
        SqlError: The text is empty, holds several statements or is not SQL as Millstream knows it.
    """
    dialect = MillstreamDialect()
    token_list: list[Token] = []
    try:
        token_list = dialect.tokenize(sql)
        source = SourceText(sql, token_list)
        statements = dialect.parser().parse(token_list, sql)
    except TokenError as error:
        raise SqlError(f"the text cannot be read as SQL: {_first_line(error)}", sql=sql) from error
    except ParseError as error:
        raise _syntax_error(sql, token_list, error) from error
    found = [statement for statement in statements if statement is not None]
    if not found:
        raise SqlError("the query is empty; write a SELECT", sql=sql)
    if len(found) > 1:
        raise source.error("only one statement can be run at a time", found[1])
    return found[0], source


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _syntax_error(sql: str, token_list: list[Token], error: ParseError) -> SqlError:
    detail = error.errors[0] if error.errors else {}
    description = str(detail.get("description") or _first_line(error)).rstrip(".")
    token = _token_at(token_list, detail.get("line"), detail.get("col"))
    if token is None:
        return SqlError(f"syntax error: {description}", sql=sql)
    line, column = line_and_column(sql, token.start)
    word = sql[token.start : token.end + 1]
    if description.startswith("Invalid expression"):
        description = "this does not fit here"
    reason = f"syntax error at {word!r}: {description[:1].lower()}{description[1:]}"
    return SqlError(reason, sql=sql, line=line, column=column)


def _token_at(token_list: list[Token], line: Any, column: Any) -> Token | None:
    for token in token_list:
        if token.line == line and token.col == column:
            return token
    return token_list[-1] if token_list else None
