"""Whether adding up before an exchange is worth its cost, measured as rows go by."""

from __future__ import annotations

__all__ = ["Reduction"]

# New groups are counted over so many rows at a time.
_PROBE_ROWS = 1 << 15
# So many probes in a row have to find few rows per group. Where groups live long, as in a large
# window, only the first rows find many new ones.
_POOR_PROBES = 8
# Of many rows at once, the first may find all new groups: they count as no more probes than this.
_PROBES_AT_ONCE = 2
# One probe is enough if hardly a row finds its group there: of so many groups, few are found again
# soon, and new ones cost most.
_ROWS_PER_GROUP_HOPELESS = 1.1
# Groups of keys that are known already are counted when they are handed on, which is long after
# their rows: so many rows are few of them off.
_LONG_PROBE_ROWS = 1 << 19
# A verdict holds for so many rows before it is tried again.
_BYPASS_ROWS = 1 << 22
# With fewer rows per group than this, a group costs more to keep and hand on than its rows.
_ROWS_PER_GROUP_MIN = 5.0


class Reduction:
    """Watches how many rows share a group, and says when to stop looking for groups.

    Input changes: keys that repeated may stop to, and the other way round. So the answer is
    measured again after a while.
    """

    def __init__(self) -> None:
        self._n_rows = 0
        self._n_groups = 0
        self._n_rows_of_old = 0
        self._n_old_groups = 0
        self._n_poor_probes = 0
        self._n_rows_to_bypass = 0

    @property
    def is_bypassed(self) -> bool:
        """Whether rows should be handed on without looking for their groups."""
        return self._n_rows_to_bypass > 0

    def count_old(self, n_groups: int) -> None:
        """Note groups that have been handed on and had not been counted as new."""
        self._n_old_groups += n_groups

    def observe(self, n_rows: int, n_new_groups: int) -> bool:
        """Note what a batch came to.

        Args:
            n_rows: Its rows.
            n_new_groups: Groups that came with it, but for those of :meth:`count_old`.

        Returns:
            Whether rows should be handed on as they are from now on.
        """
        self._n_rows += n_rows
        self._n_groups += n_new_groups
        self._n_rows_of_old += n_rows
        if self._n_rows < _PROBE_ROWS:
            return False
        if self._n_rows < _ROWS_PER_GROUP_HOPELESS * self._n_groups:
            self._n_poor_probes = _POOR_PROBES
        elif self._n_rows < _ROWS_PER_GROUP_MIN * self._n_groups:
            self._n_poor_probes += min(self._n_rows // _PROBE_ROWS, _PROBES_AT_ONCE)
        else:
            self._n_poor_probes = 0
        self._n_rows = self._n_groups = 0
        if self._n_rows_of_old >= _LONG_PROBE_ROWS:
            if self._n_rows_of_old < _ROWS_PER_GROUP_MIN * self._n_old_groups:
                self._n_poor_probes = _POOR_PROBES
            self._n_rows_of_old = self._n_old_groups = 0
        if self._n_poor_probes >= _POOR_PROBES:
            self._n_poor_probes = 0
            self._n_rows_to_bypass = _BYPASS_ROWS
        return self.is_bypassed

    def bypass(self, n_rows: int) -> None:
        """Note rows that were handed on as they are."""
        self._n_rows_to_bypass = max(self._n_rows_to_bypass - n_rows, 0)
