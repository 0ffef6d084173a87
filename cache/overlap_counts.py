"""What was counted of overlaps: regions by tensor and rule, and maps of where a matrix's changes agree.

Rows are keyed by the base and the set of tuned models, whatever order they are named in: a region is stored with its
bits in the order of the models' keys, and read in the order asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from analysis.measurements import OVERLAP_VERSION, Consensus, MaskRule, Regions
from cache import queries, rows
from cache.database import Database
from cache.records import now


class OverlapCounts:
    """The store's overlaps. Every put touches the base model's key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put_regions(self, base_key: str, tuned_keys: Sequence[str], name: str, regions: Regions) -> Future[None]:
        """A future that is done when one tensor's regions are on the disk; bit i stands for tuned_keys[i]."""
        key = {"base_key": base_key, "tuned_keys": _joined(tuned_keys), "name": name, "rule": regions.rule}
        row = key | {"version": OVERLAP_VERSION, "stored_at": now()} | rows.regions_row(regions, _by_key(tuned_keys))
        return self._database.write({"regions": [row]}, touches=(base_key,))

    def regions(self, base_key: str, tuned_keys: Sequence[str], rule: MaskRule) -> dict[str, Regions]:
        """Regions by tensor name; bit i stands for tuned_keys[i], in the order asked."""
        values = [base_key, _joined(tuned_keys), rule, OVERLAP_VERSION]
        found = self._database.arrow(queries.REGIONS, values)
        order = _by_key(tuned_keys)
        return rows.regions(found, [order.index(asked) for asked in range(len(order))])

    def put_consensus(self, base_key: str, tuned_keys: Sequence[str], name: str, found: Consensus) -> Future[None]:
        """A future that is done when one matrix's map is on the disk. It counts models, so their order is no matter."""
        key = {"base_key": base_key, "tuned_keys": _joined(tuned_keys), "name": name, "rule": found.rule}
        row = key | {"version": OVERLAP_VERSION, "stored_at": now()} | rows.consensus_row(found)
        return self._database.write({"consensus": [row]}, touches=(base_key,))

    def consensus(self, base_key: str, tuned_keys: Sequence[str], name: str, rule: MaskRule) -> Consensus | None:
        """Where in this matrix the models' changes agree, or None."""
        values = [base_key, _joined(tuned_keys), name, rule, OVERLAP_VERSION]
        return rows.consensus(self._database.arrow(queries.CONSENSUS, values), rule)

    def counted(self, base_key: str) -> list[tuple[str, ...]]:
        """Which sets of tuned models have regions over this base, by their keys, the last counted first."""
        found = self._database.rows(queries.COUNTED_OVERLAPS, [base_key, OVERLAP_VERSION])
        return [tuple(joined.split("\n")) for (joined,) in found]


def _by_key(tuned_keys: Sequence[str]) -> list[int]:
    """Positions in the order of their keys: the order in which regions are stored."""
    return sorted(range(len(tuned_keys)), key=tuned_keys.__getitem__)


def _joined(tuned_keys: Sequence[str]) -> str:
    return "\n".join(sorted(tuned_keys))
