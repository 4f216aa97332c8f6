"""The clauses that streaming adds to SQL, as an extension of the parser.

``WINDOW TUMBLING(...)``, windowing table functions in FROM, ``EMIT CHANGES`` and ``EMIT FINAL``,
and ``ROWS WINDOW BUFFER n ROWS`` in an OVER clause. Each becomes a node of its own in the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlglot import exp
from sqlglot.tokens import TokenType

if TYPE_CHECKING:
    from sqlglot.parsers.postgres import PostgresParser as ParserBase
else:
    ParserBase = object

__all__ = ["Duration", "Emit", "StreamingClauses", "WindowArgument", "WindowBuffer", "WindowCall"]

_CLAUSE_WINDOWS = ("TUMBLING", "SLIDING", "SESSION")
_ARROWS = (TokenType.FARROW, TokenType.COLON_EQ)
_TABLE_WINDOWS = ("TUMBLE", "HOP", "CUMULATE", "SESSION")


class WindowCall(exp.Expression):
    """A window written as a clause or as a table function: ``this`` is its upper-case name."""

    arg_types = {"this": True, "expressions": True, "alias": False}


class WindowArgument(exp.Expression):
    """One argument of a window: its upper-case ``name``, if it has one, and its value."""

    arg_types = {"this": True, "name": False, "partition_by": False}


class Duration(exp.Expression):
    """A short duration such as ``10s``, as its text."""

    arg_types = {"this": True}


class Emit(exp.Expression):
    """``EMIT CHANGES`` or ``EMIT FINAL``: ``this`` is the upper-case word."""

    arg_types = {"this": True}


class WindowBuffer(exp.Expression):
    """``ROWS WINDOW BUFFER n ROWS``: ``this`` is n. Stands among the terms of PARTITION BY."""

    arg_types = {"this": True}


class StreamingClauses(ParserBase):
    """Parser methods for streaming clauses, to be mixed in before a parser class."""

    _index: int
    _curr: Any
    _next: Any
    _prev: Any

    def _noted(self, start: int, node: Any) -> Any:
        raise NotImplementedError

    # Clauses of a SELECT -------------------------------------------------------------------------

    def _parse_window_clause(self) -> Any:
        if self._window_name(self._curr, self._next) is None:
            self._check_named_window()
            return super()._parse_window_clause()
        start = self._index
        self._advance()
        return [self._noted(start, self._parse_window_call())]

    def _check_named_window(self) -> None:
        after = self._index + 2
        if after < len(self._tokens) and self._tokens[after].token_type == TokenType.L_PAREN:
            windows = ", ".join(_CLAUSE_WINDOWS)
            self.raise_error(f"windows of event time are {windows}", token=self._next)

    def _parse_query_modifiers(self, this: Any) -> Any:
        this = super()._parse_query_modifiers(this)
        while isinstance(this, self.MODIFIABLES) and self._at_emit():
            start = self._index
            self._advance(2)
            if this.args.get("emit"):
                self.raise_error("Found multiple 'EMIT' clauses", token=self._prev)
            this.set("emit", self._noted(start, Emit(this=self._prev.text.upper())))
            this = super()._parse_query_modifiers(this)
        return this

    def _parse_group(self, *args: Any, **kwargs: Any) -> Any:
        start = self._index
        if self._match(TokenType.GROUP_BY) and self._match(TokenType.ALL) and self._at_emit():
            # Else the words of the clause would be taken for terms.
            return self._noted(start, exp.Group(all=True))
        self._retreat(start)
        return super()._parse_group(*args, **kwargs)

    def _parse_table_alias(self, *args: Any, **kwargs: Any) -> Any:
        if self._at_emit() or self._window_name(self._curr, self._next) is not None:
            return None
        return super()._parse_table_alias(*args, **kwargs)

    def _parse_alias(self, this: Any, explicit: bool = False) -> Any:
        if self._at_emit() or self._window_name(self._curr, self._next) is not None:
            return this
        return super()._parse_alias(this, explicit)

    def _parse_locks(self) -> Any:
        start = self._index
        return [self._noted(start, lock) for lock in super()._parse_locks()]

    def _at_emit(self) -> bool:
        if self._curr.token_type != TokenType.VAR or self._curr.text.upper() != "EMIT":
            return False
        if self._next.text.upper() in ("CHANGES", "FINAL"):
            return True
        if self._next.token_type == TokenType.VAR:
            self.raise_error("EMIT takes CHANGES or FINAL", token=self._next)
        return False

    def _window_name(self, word: Any, name: Any) -> str | None:
        if word.token_type != TokenType.WINDOW or name.text.upper() not in _CLAUSE_WINDOWS:
            return None
        after = self._index + 2
        if after >= len(self._tokens) or self._tokens[after].token_type != TokenType.L_PAREN:
            return None
        return str(name.text.upper())

    # Windowing table functions -------------------------------------------------------------------

    def _parse_table(self, *args: Any, **kwargs: Any) -> Any:
        start = self._index
        wrapped = (
            self._curr.text.upper() == "TABLE"
            and self._next.token_type == TokenType.L_PAREN
            and self._names_table_window(start + 2)
        )
        if not wrapped and not self._names_table_window(start):
            return super()._parse_table(*args, **kwargs)
        if wrapped:
            self._advance(2)
        call = self._parse_window_call()
        if wrapped:
            self._match_r_paren()
        self._noted(start, call)
        call.set("alias", self._parse_table_alias())
        return call

    def _names_table_window(self, index: int) -> bool:
        return (
            index + 1 < len(self._tokens)
            and self._tokens[index].text.upper() in _TABLE_WINDOWS
            and self._tokens[index].token_type != TokenType.IDENTIFIER
            and self._tokens[index + 1].token_type == TokenType.L_PAREN
        )

    def _parse_window_call(self) -> Any:
        start = self._index
        name = self._curr.text.upper()
        self._advance(2)
        arguments = self._parse_csv(self._parse_window_argument)
        self._match_r_paren()
        return self._noted(start, WindowCall(this=name, expressions=arguments))

    def _parse_window_argument(self) -> Any:
        start = self._index
        name = None
        if self._next.token_type in _ARROWS:
            name = self._curr.text.upper()
            self._advance(2)
        return self._noted(start, self._parse_window_value(name))

    def _parse_window_value(self, name: str | None) -> Any:
        if self._curr.token_type == TokenType.TABLE:
            self._advance()
            table = self._parse_window_data()
            return WindowArgument(this=table, name=name, partition_by=self._partition())
        if self._match_text_seq("DESCRIPTOR"):
            self._match_l_paren()
            column = self._parse_column()
            self._match_r_paren()
            return WindowArgument(this=column, name=name)
        if self._at_duration():
            start = self._index
            self._advance(2)
            text = self._find_sql(self._tokens[start], self._prev)
            return WindowArgument(this=self._noted(start, Duration(this=text)), name=name)
        if self._curr.token_type == TokenType.L_PAREN and self._next.token_type in (
            TokenType.SELECT,
            TokenType.WITH,
        ):
            data = self._parse_window_data()
            return WindowArgument(this=data, name=name, partition_by=self._partition())
        value = self._parse_disjunction()
        if value is None:
            self.raise_error("Expected a window argument")
        return WindowArgument(this=value, name=name, partition_by=self._partition())

    def _parse_window_data(self) -> Any:
        start = self._index
        if self._match(TokenType.L_PAREN):
            query = self._parse_select()
            self._match_r_paren()
            return self._noted(start, exp.Subquery(this=query))
        return self._noted(start, self._parse_table_parts())

    def _partition(self) -> Any:
        """PARTITION BY of a table, which ends where the next argument can be told apart."""
        if not self._match(TokenType.PARTITION_BY):
            return None
        terms = [self._parse_disjunction()]
        while self._curr.token_type == TokenType.COMMA and not self._argument_follows():
            self._advance()
            terms.append(self._parse_disjunction())
        return terms

    def _argument_follows(self) -> bool:
        """Whether after a comma comes DESCRIPTOR or a named argument."""
        after = self._index + 2
        named = after < len(self._tokens) and self._tokens[after].token_type in _ARROWS
        return bool(named or self._next.text.upper() == "DESCRIPTOR")

    def _at_duration(self) -> bool:
        adjacent = self._curr.end + 1 == self._next.start
        kinds = (self._curr.token_type, self._next.token_type)
        return bool(adjacent and kinds == (TokenType.NUMBER, TokenType.VAR))

    # OVER ----------------------------------------------------------------------------------------

    def _parse_partition_and_order(self) -> Any:
        start = self._index
        if not self._match_text_seq("ROWS", "WINDOW", "BUFFER"):
            return super()._parse_partition_and_order()
        n_rows = self._parse_number()
        if n_rows is None or not self._match_text_seq("ROWS"):
            self.raise_error("Expected ROWS WINDOW BUFFER n ROWS")
        buffer = self._noted(start, WindowBuffer(this=n_rows))
        partition, order = super()._parse_partition_and_order()
        return [*partition, buffer], order
