"""The store's schema as numbered steps. A step that was released is never edited; a change is a new step at the end.

Before an older store is brought up to date, a copy of it is written beside it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from duckdb import DuckDBPyConnection

from analysis.errors import StoreNewer

_FIRST = """
CREATE TABLE pairs (
    pair_key VARCHAR PRIMARY KEY,
    base_where VARCHAR NOT NULL, base_name VARCHAR NOT NULL,
    base_commit VARCHAR NOT NULL, base_subfolder VARCHAR NOT NULL,
    tuned_where VARCHAR NOT NULL, tuned_name VARCHAR NOT NULL,
    tuned_commit VARCHAR NOT NULL, tuned_subfolder VARCHAR NOT NULL,
    base_card VARCHAR NOT NULL, tuned_card VARCHAR NOT NULL,            -- JSON text
    base_parameters BIGINT NOT NULL, tuned_parameters BIGINT NOT NULL,
    n_tensors BIGINT NOT NULL, n_matrices BIGINT NOT NULL, entries BIGINT NOT NULL,
    registered_at TIMESTAMP NOT NULL);

CREATE TABLE tensors (
    pair_key VARCHAR, position INTEGER, name VARCHAR NOT NULL, tuned_name VARCHAR NOT NULL, shape BIGINT[] NOT NULL,
    base_dtype VARCHAR NOT NULL, base_file VARCHAR NOT NULL, base_begin BIGINT NOT NULL, base_end BIGINT NOT NULL,
    tuned_dtype VARCHAR NOT NULL, tuned_file VARCHAR NOT NULL, tuned_begin BIGINT NOT NULL, tuned_end BIGINT NOT NULL,
    PRIMARY KEY (pair_key, position));

CREATE TABLE not_compared (
    pair_key VARCHAR, position INTEGER, name VARCHAR NOT NULL, side VARCHAR NOT NULL, reason VARCHAR NOT NULL,
    parameters BIGINT NOT NULL, PRIMARY KEY (pair_key, position));

CREATE TABLE tallies (
    pair_key VARCHAR, name VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    entries BIGINT NOT NULL, nonfinite BIGINT NOT NULL, nonfinite_same BIGINT NOT NULL, equal BIGINT NOT NULL,
    bf16_unchanged BIGINT NOT NULL, mukherjee_unchanged BIGINT NOT NULL, sign_flips BIGINT NOT NULL,
    base_square_sum DOUBLE NOT NULL, tuned_square_sum DOUBLE NOT NULL, update_square_sum DOUBLE NOT NULL,
    update_abs_sum DOUBLE NOT NULL, base_dot_tuned DOUBLE NOT NULL, max_abs_update DOUBLE NOT NULL,
    changes BIGINT[] NOT NULL,                                          -- the joint histogram summed over binades
    joint_cells INTEGER[] NOT NULL, joint_counts BIGINT[] NOT NULL,     -- its cells that are not 0, in C order
    base_binades BIGINT[] NOT NULL, mukherjee_binades BIGINT[] NOT NULL, relative BIGINT[] NOT NULL,
    row_changes UINTEGER[] NOT NULL, column_changes UINTEGER[] NOT NULL,
    density UINTEGER[] NOT NULL, density_rows INTEGER NOT NULL, density_columns INTEGER NOT NULL,
    PRIMARY KEY (pair_key, name, version));

CREATE TABLE spectra (
    pair_key VARCHAR, name VARCHAR, "of" VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    "rows" BIGINT NOT NULL, "columns" BIGINT NOT NULL, tolerance DOUBLE NOT NULL,
    "rank" BIGINT, rank_low BIGINT, rank_high BIGINT, method VARCHAR NOT NULL, reason VARCHAR NOT NULL,
    singular_values FLOAT[] NOT NULL,
    PRIMARY KEY (pair_key, name, "of", version));

CREATE TABLE gaps (
    pair_key VARCHAR, kind VARCHAR, name VARCHAR, "of" VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    reason VARCHAR NOT NULL, PRIMARY KEY (pair_key, kind, name, "of", version));

CREATE TABLE regions (
    base_key VARCHAR, tuned_keys VARCHAR, name VARCHAR, "rule" VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    counts BIGINT[] NOT NULL,                                           -- bits in the order of the sorted keys
    PRIMARY KEY (base_key, tuned_keys, name, "rule", version));

CREATE TABLE masks (
    pair_key VARCHAR, name VARCHAR, "rule" VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    path VARCHAR NOT NULL, entries BIGINT NOT NULL, changed BIGINT NOT NULL, bytes BIGINT NOT NULL,
    sha256 VARCHAR NOT NULL,
    PRIMARY KEY (pair_key, name, "rule", version));

CREATE TABLE jobs (
    id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, request VARCHAR NOT NULL, state VARCHAR NOT NULL,
    message VARCHAR NOT NULL, created_at TIMESTAMP NOT NULL, started_at TIMESTAMP, ended_at TIMESTAMP,
    measured BIGINT NOT NULL, planned BIGINT NOT NULL);
"""

# Pairs of views: what a pair's tensors are called on each side, how it was found, and the shapes that the views are of
# (empty for a whole tensor). In rows from before, both sides have the pair's name.
_VIEWS = """
ALTER TABLE tensors ADD COLUMN base_name VARCHAR;
ALTER TABLE tensors ADD COLUMN "match" VARCHAR DEFAULT 'exact';
ALTER TABLE tensors ADD COLUMN base_stored BIGINT[] DEFAULT [];
ALTER TABLE tensors ADD COLUMN tuned_stored BIGINT[] DEFAULT [];
"""

# Plain sums, for correlations. Rows from before are of an older version and no longer asked for.
_SUMS = """
ALTER TABLE tallies ADD COLUMN base_sum DOUBLE DEFAULT 0;
ALTER TABLE tallies ADD COLUMN tuned_sum DOUBLE DEFAULT 0;
"""

# What people write about a pair.
_NOTES = """
CREATE TABLE notes (
    pair_key VARCHAR PRIMARY KEY, algorithm VARCHAR NOT NULL, data VARCHAR NOT NULL, tags VARCHAR[] NOT NULL,
    note VARCHAR NOT NULL, stored_at TIMESTAMP NOT NULL);
"""

# Scales of 8-bit tensors, as JSON text; '' where a tensor has none.
_SCALES = """
ALTER TABLE tensors ADD COLUMN base_scales VARCHAR DEFAULT '';
ALTER TABLE tensors ADD COLUMN tuned_scales VARCHAR DEFAULT '';
"""

# What was asked for of each pair, so that what is missing can be told from what nobody wanted. Until now that was all
# of it; '{}' is the plan that asks for everything.
_ASKED = """
CREATE TABLE asked (
    pair_key VARCHAR, plan VARCHAR, asked_at TIMESTAMP NOT NULL,        -- JSON text
    PRIMARY KEY (pair_key, plan));
INSERT INTO asked SELECT DISTINCT pair_key, '{}', now() AT TIME ZONE 'UTC' FROM tallies;
"""

# Adapters: how one changes a tensor (JSON, empty for none), and the tallies of its own update.
_ADAPTERS = """
ALTER TABLE tensors ADD COLUMN "merge" VARCHAR DEFAULT '';
CREATE TABLE adapter_tallies AS SELECT * FROM tallies LIMIT 0;
ALTER TABLE adapter_tallies ADD PRIMARY KEY (pair_key, name, version);
"""

# Overlaps of up to twelve models: the regions that occur, chance at equal magnitude under the bf16 rule, and maps of
# where runs agree. Tallies and regions from before are of older versions and no longer asked for.
_OVERLAPS = """
ALTER TABLE tallies ADD COLUMN bf16_binades BIGINT[] DEFAULT [];
ALTER TABLE adapter_tallies ADD COLUMN bf16_binades BIGINT[] DEFAULT [];
ALTER TABLE regions ADD COLUMN subsets INTEGER[] DEFAULT [];            -- of the models, as bits; counts by subset
CREATE TABLE consensus (
    base_key VARCHAR, tuned_keys VARCHAR, name VARCHAR, "rule" VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    "rows" BIGINT NOT NULL, "columns" BIGINT NOT NULL, map_rows INTEGER NOT NULL, map_columns INTEGER NOT NULL,
    counts UINTEGER[] NOT NULL,                                         -- (map_rows, map_columns, models + 1)
    PRIMARY KEY (base_key, tuned_keys, name, "rule", version));
"""

# Training dynamics: an ordered run of checkpoints, and its counts by tensor, one a checkpoint.
_SERIES = """
CREATE TABLE series (
    series_key VARCHAR PRIMARY KEY, base VARCHAR NOT NULL,
    checkpoints VARCHAR NOT NULL, labels VARCHAR NOT NULL,              -- JSON text, in the order of the run
    registered_at TIMESTAMP NOT NULL);

CREATE TABLE steps (
    series_key VARCHAR, name VARCHAR, "rule" VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    entries BIGINT NOT NULL, changed BIGINT[] NOT NULL, moved BIGINT[] NOT NULL, changed_outside BIGINT[] NOT NULL,
    moved_outside BIGINT[] NOT NULL, "union" BIGINT[] NOT NULL,
    PRIMARY KEY (series_key, name, "rule", version));
"""

# Changes in steps of the stored type. Tallies from before are of an older version and no longer asked for.
_ULPS = """
ALTER TABLE tallies ADD COLUMN ulps BIGINT[] DEFAULT [];
ALTER TABLE adapter_tallies ADD COLUMN ulps BIGINT[] DEFAULT [];
"""

# Estimates of singular values, until these are computed.
_PREVIEWS = """
CREATE TABLE previews (
    pair_key VARCHAR, name VARCHAR, "of" VARCHAR, version INTEGER, stored_at TIMESTAMP NOT NULL,
    "rows" BIGINT NOT NULL, "columns" BIGINT NOT NULL, stable_rank DOUBLE NOT NULL, effective_rank DOUBLE NOT NULL,
    positions FLOAT[] NOT NULL, "values" FLOAT[] NOT NULL,
    PRIMARY KEY (pair_key, name, "of", version));
"""

# The one number of all singular values that every overview shows, so that it need not read them.
_EFFECTIVE_RANKS = """
CREATE TABLE effective_ranks (
    pair_key VARCHAR, name VARCHAR, "of" VARCHAR, version INTEGER, effective_rank DOUBLE NOT NULL,
    PRIMARY KEY (pair_key, name, "of", version));
"""

STEPS: tuple[str, ...] = (
    *(_FIRST, _VIEWS, _SUMS, _NOTES, _SCALES, _ASKED, _ADAPTERS, _OVERLAPS, _SERIES, _ULPS),
    *(_PREVIEWS, _EFFECTIVE_RANKS),
)


def migrate(connection: DuckDBPyConnection, path: Path | None, steps: Sequence[str] = STEPS) -> int:
    """The number of steps taken to bring the store up to date, each in its own transaction.

    `path` is None for a store in memory, which has nothing to back up. Raises StoreNewer."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_steps (step INTEGER PRIMARY KEY, applied_at TIMESTAMP NOT NULL)"
    )
    [(done,)] = connection.execute("SELECT coalesce(max(step), 0) FROM schema_steps").fetchall()
    if done > len(steps):
        raise StoreNewer(
            f"The store has schema step {done}",
            expected=f"This version of Subnetscope knows {len(steps)}",
            do="Update Subnetscope, or set SUBNETSCOPE_DATA to another folder",
        )
    if 0 < done < len(steps) and path is not None:
        _back_up(connection, path, path.with_name(f"{path.name}.before-step-{done + 1}"))
    for number, step in enumerate(steps[done:], start=done + 1):
        _take(connection, number, step)
    return len(steps) - done


def _take(connection: DuckDBPyConnection, number: int, step: str) -> None:
    connection.execute("BEGIN")
    connection.execute(step)
    connection.execute("INSERT INTO schema_steps VALUES (?, now() AT TIME ZONE 'UTC')", [number])
    connection.execute("COMMIT")


def _back_up(connection: DuckDBPyConnection, path: Path, copy: Path) -> None:
    """Copies the whole file, once nothing waits in its write-ahead log: the engine's own copy of a store of 50,000
    matrices takes more memory than it has. Another process copies, since closing a file gives up a process's lock."""
    connection.execute("CHECKPOINT")
    copying = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", copying, str(path), str(copy)], capture_output=True, text=True)
    if done.returncode:
        if copy.is_file():
            copy.unlink()
        raise OSError(f"The store could not be copied before its schema changes: {done.stderr.strip()[-300:]}")
