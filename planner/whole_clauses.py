"""An extension of the parser that refuses clauses of which a part is missing.

What stands in the structure of a query would be ignored in silence otherwise: ``JOIN d ON`` would
be a cross join. Of what stands in an expression, DataFusion's own parser takes care.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlglot.tokens import TokenType

if TYPE_CHECKING:
    from sqlglot.parsers.postgres import PostgresParser as ParserBase
else:
    ParserBase = object

__all__ = ["WholeClauses"]

# What never begins an expression, so that one is missing between it and a comma.
_AFTER_LISTS = frozenset(
    {
        *(TokenType.COMMA, TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.FROM),
        *(TokenType.WHERE, TokenType.GROUP_BY, TokenType.HAVING, TokenType.QUALIFY),
        *(TokenType.ORDER_BY, TokenType.LIMIT, TokenType.UNION),
    }
)


class WholeClauses(ParserBase):
    """Parser methods that miss nothing, to be mixed in before a parser class."""

    _index: int
    _curr: Any
    _prev: Any

    def _parse_csv(self, parse_method: Any, sep: TokenType = TokenType.COMMA) -> Any:
        def parse_one() -> Any:
            follows = self._index > 0 and self._prev.token_type == sep
            item = parse_method()
            if item is None and follows and self._at_end_of_list():
                self.raise_error("An expression is missing here", token=self._prev)
            if item is None and self._curr.token_type == sep:
                self.raise_error("An expression is missing here", token=self._curr)
            return item

        return super()._parse_csv(parse_one, sep)

    def _at_end_of_list(self) -> bool:
        return self._index >= len(self._tokens) or self._curr.token_type in _AFTER_LISTS

    def _parse_join(self, *args: Any, **kwargs: Any) -> Any:
        first = self._curr
        join = super()._parse_join(*args, **kwargs)
        if join is None and first.token_type == TokenType.COMMA:
            self.raise_error("A table is missing here", token=first)
        if join is not None and self._prev.token_type == TokenType.ON:
            self.raise_error("A condition is missing here", token=self._prev)
        return join

    def _parse_using_identifiers(self) -> Any:
        word = self._prev
        columns = self._parse_wrapped_csv(self._parse_id_var)
        if not columns:
            self.raise_error("A column is missing here", token=word)
        return columns

    def _parse_table_alias(self, *args: Any, **kwargs: Any) -> Any:
        alias = super()._parse_table_alias(*args, **kwargs)
        if alias is None and self._prev.token_type == TokenType.ALIAS:
            self.raise_error("A name is missing here", token=self._prev)
        return alias

    def _parse_where(self, skip_where_token: bool = False) -> Any:
        if skip_where_token and self._prev.token_type != TokenType.WHERE:
            self.raise_error("WHERE is missing here", token=self._curr)
        return super()._parse_where(skip_where_token)

    def _parse_wrapped(self, parse_method: Any, optional: bool = False) -> Any:
        inner = super()._parse_wrapped(parse_method, optional)
        if inner is None and parse_method == self._parse_order:
            self.raise_error("ORDER BY is missing here", token=self._prev)
        return inner

    def _parse_partition_by(self) -> Any:
        word = self._curr
        terms = super()._parse_partition_by()
        if not terms and word.token_type == TokenType.PARTITION_BY:
            self.raise_error("An expression is missing here", token=word)
        return terms

    def _parse_window_spec(self) -> Any:
        """One bound of a frame."""
        word = self._prev
        bound = super()._parse_window_spec()
        if bound["value"] is None:
            self.raise_error("A bound of the frame is missing here", token=word)
        if bound["side"] is None and bound["value"] != "CURRENT ROW":
            self.raise_error("PRECEDING is missing here", token=self._prev)
        if word.token_type == TokenType.BETWEEN and self._curr.token_type != TokenType.AND:
            self.raise_error("AND is missing here", token=self._prev)
        if word.token_type != TokenType.BETWEEN and self._curr.token_type == TokenType.AND:
            self.raise_error("BETWEEN is missing here", token=word)
        return bound
