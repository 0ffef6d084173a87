"""Alignments out of the store, the last ones kept in memory: checkpoints of one layout share theirs."""

from __future__ import annotations

from analysis.errors import StoreError
from analysis.tensors import Alignment
from cache import rows
from cache.database import Database

_KEPT_TENSORS = 150_000  # in alignments that are kept in memory


class Alignments:
    """The tensors of each registered pair."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._print_of_key: dict[str, tuple[int, bytes]] = {}  # (generation, fingerprint of the alignment's rows)
        self._alignment_of_print: dict[bytes, Alignment] = {}  # in the order they were read from the disk

    def of(self, key: str) -> Alignment:
        """The pair's tensors as they were registered. Raises StoreError for a pair that is not."""
        generation = self._database.generation(touched_by(key))
        known = self._print_of_key.get(key)
        kept = self._alignment_of_print.get(known[1]) if known and known[0] == generation else None
        if kept:
            return kept
        totals = self._database.rows("SELECT base_parameters, tuned_parameters FROM pairs WHERE pair_key = ?", [key])
        if not totals:
            raise StoreError(f"The store has no pair '{key[:40]}'", do="Compare the two models first")
        tensors, not_compared = (
            self._database.arrow(f"SELECT * FROM {table} WHERE pair_key = ? ORDER BY position", [key])
            for table in ("tensors", "not_compared")
        )
        fingerprint = rows.fingerprint(tensors, not_compared, *totals[0])
        self._print_of_key[key] = generation, fingerprint
        same = self._alignment_of_print.get(fingerprint)
        return same or self._keep(fingerprint, rows.alignment(tensors, not_compared, *totals[0]))

    def _keep(self, fingerprint: bytes, alignment: Alignment) -> Alignment:
        kept = self._alignment_of_print
        kept[fingerprint] = alignment
        while len(kept) > 1 and sum(len(one.pairs) for one in list(kept.values())) > _KEPT_TENSORS:
            kept.pop(next(iter(kept)), None)
        return alignment


def touched_by(key: str) -> str:
    """The name that a write touches which changes the pair's alignment."""
    return f"alignment {key}"
