"""The ledger of jobs: what was asked of this store and what became of it, for a server that starts again."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict

from cache import queries
from cache.database import Database
from cache.records import JobRecord


class Ledger:
    """Every job of the store, by its id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, job: JobRecord) -> Future[None]:
        """A future that is done when the ledger holds the job as it is now."""
        return self._database.write({"jobs": [asdict(job)]})

    def jobs(self, limit: int = 100) -> list[JobRecord]:
        """The last jobs, newest first."""
        return self._jobs("ORDER BY created_at DESC, id DESC LIMIT ?", [limit])

    def unfinished(self) -> list[JobRecord]:
        """Jobs that have not ended, oldest first: what a restarted server has to go on with."""
        return self._jobs("WHERE ended_at IS NULL ORDER BY created_at, id", [])

    def _jobs(self, clause: str, values: list[object]) -> list[JobRecord]:
        found = self._database.rows(f"SELECT {queries.quoted(queries.JOB_COLUMNS)} FROM jobs {clause}", values)
        return [JobRecord(**dict(zip(queries.JOB_COLUMNS, row, strict=True))) for row in found]
