"""What is known of runs of checkpoints: their order and labels, and what was counted along them, by tensor and rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future

from analysis.measurements import DYNAMICS_VERSION, MaskRule, StepCounts
from analysis.series import Series
from cache import queries, rows, tables
from cache.database import Database
from cache.records import StoredSeries, now

SERIES = "series"  # what the store's `generation` is asked for: of all runs


class SeriesCounts:
    """The store's series. The pairs of one are registered each for itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, series: Series, labels: Sequence[str]) -> Future[None]:
        """A future that is done when the series is known."""
        row = {
            "series_key": series.key,
            "base": str(series.base),
            "checkpoints": json.dumps([str(model) for model in series.checkpoints]),
            "labels": json.dumps(list(labels)),
            "registered_at": now(),
        }
        return self._database.write({"series": [row]}, touches=(series.key, SERIES))

    def known(self) -> list[StoredSeries]:
        """Every known series, the last registered first."""
        sql = "SELECT base, checkpoints, labels, registered_at FROM series ORDER BY registered_at DESC, series_key"
        return [queries.stored_series(row) for row in self._database.rows(sql)]

    def put_steps(self, series_key: str, name: str, counts: StepCounts) -> Future[None]:
        """A future that is done when one tensor's counts over the run are on the disk."""
        row = {"series_key": series_key, "name": name, "version": DYNAMICS_VERSION, "stored_at": now()}
        values = {field: getattr(counts, field) for field in ("rule", "entries", *tables.STEP_LISTS)}
        return self._database.write({"steps": [row | values]}, touches=(series_key, SERIES))

    def steps(self, series_key: str, rule: MaskRule) -> dict[str, StepCounts]:
        """Counts over the run by tensor name."""
        return rows.steps(self._database.arrow(queries.STEPS, [series_key, rule]))
