"""The store's questions as SQL, with the values that belong in them. Values only ever travel as parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from analysis.links import pinned
from analysis.measurements import (
    DYNAMICS_VERSION,
    N_CHANGE_BINS,
    OVERLAP_VERSION,
    PREVIEW_VERSION,
    SPECTRUM_VERSION,
    TALLY_VERSION,
)
from analysis.models import Pair, PinnedModel
from analysis.series import Series
from analysis.tensors import Alignment
from cache.masks import MaskFile
from cache.records import JobRecord, ModelCard, StoredPair, StoredSeries
from cache.tables import STEP_LISTS

VERSION_OF_GAP = {
    "tally": TALLY_VERSION,
    "preview": PREVIEW_VERSION,
    "spectrum": SPECTRUM_VERSION,
    "overlap": OVERLAP_VERSION,
}

# Gaps of older versions stay in the file like any other row, and like them are not asked for.
GAP_IN_USE = "(kind, version) IN ((?, ?), (?, ?), (?, ?), (?, ?))"
GAP_VALUES = [value for gap in VERSION_OF_GAP.items() for value in gap]

# Why there is no preview is not shown: the spectrum comes all the same, or has a gap of its own.
GAP_SHOWN = f"kind <> 'preview' AND {GAP_IN_USE}"


# A spectrum, or a reason why there is none, leaves no preview to be wanted.
STORED = f"""
    SELECT 'tally', name, 'update' FROM tallies WHERE pair_key = ? AND version = ?
    UNION ALL SELECT 'tally', name, 'adapter' FROM adapter_tallies WHERE pair_key = ? AND version = ?
    UNION ALL SELECT 'spectrum', name, "of" FROM spectra WHERE pair_key = ? AND version = ?
    UNION ALL SELECT 'preview', name, "of" FROM spectra WHERE pair_key = ? AND version = ?
    UNION ALL SELECT 'preview', name, "of" FROM previews WHERE pair_key = ? AND version = ?
    UNION ALL SELECT 'preview', name, "of" FROM gaps WHERE pair_key = ? AND kind = 'spectrum' AND version = ?
    UNION ALL SELECT kind, name, "of" FROM gaps WHERE pair_key = ? AND {GAP_IN_USE}"""


def stored_values(key: str) -> list[object]:
    """The values of STORED."""
    of_spectra = (SPECTRUM_VERSION, SPECTRUM_VERSION, PREVIEW_VERSION, SPECTRUM_VERSION)
    versions = (TALLY_VERSION, TALLY_VERSION, *of_spectra)
    return [*(value for version in versions for value in (key, version)), key, *GAP_VALUES]


# Of one matrix, while its spectrum is to come: nothing is estimated that is known, or that failed.
PREVIEW_IN_USE = """
    pair_key = ? AND version = ? AND "of" = 'update' AND name = ?
    AND (pair_key, name, "of") NOT IN (SELECT pair_key, name, "of" FROM spectra WHERE version = ?)
    AND (pair_key, name, "of") NOT IN (SELECT pair_key, name, "of" FROM gaps WHERE kind = 'spectrum' AND version = ?)"""


_MODEL_COLUMNS = ("where", "name", "commit", "subfolder")
_PAIR_COLUMNS = [f"{side}_{name}" for side in ("base", "tuned") for name in (*_MODEL_COLUMNS, "card")]

# A later `WHERE p.pair_key = ...` or `ORDER BY` is put behind it.
PAIRS = f"""
    SELECT {", ".join(_PAIR_COLUMNS)}, registered_at, greatest(registered_at, t.at, s.at, g.at) AS last_activity,
           n_tensors, n_matrices, entries, coalesce(t.n, 0), coalesce(s.n, 0), coalesce(g.n, 0)
    FROM pairs p
    LEFT JOIN (SELECT pair_key, count(*) AS n, max(stored_at) AS at FROM tallies WHERE version = ? GROUP BY pair_key) t
        ON t.pair_key = p.pair_key
    LEFT JOIN (SELECT pair_key, count(*) FILTER ("of" = 'update') AS n, max(stored_at) AS at
               FROM spectra WHERE version = ? GROUP BY pair_key) s ON s.pair_key = p.pair_key
    LEFT JOIN (SELECT pair_key, count(*) AS n, max(stored_at) AS at
               FROM gaps WHERE {GAP_SHOWN} GROUP BY pair_key) g ON g.pair_key = p.pair_key"""
PAIRS_VALUES = [TALLY_VERSION, SPECTRUM_VERSION, *GAP_VALUES]


def _is_called(side: str) -> str:
    title = f"concat_ws('/', {side}_name, nullif({side}_subfolder, ''))"
    return f"list_has_any([{title}, {title} || '@' || {side}_commit], ?)"


# By all spellings of either name, which may be with a commit.
CALLED = f"SELECT pair_key FROM pairs WHERE {_is_called('base')} AND {_is_called('tuned')}"


def spellings(typed: str) -> list[str]:
    """How the model that somebody calls so may be called here: a folder is './folder', unless it lies elsewhere."""
    name = typed.strip().rstrip("/")
    return [name, f"./{name}"]


# One row a pair that has measurements: the amounts of PairNumbers, in its order, behind the key.
NUMBERS = """
    SELECT p.pair_key, t.entries, t.exact, t.mukherjee, t.bf16, t.updates, t.bases, coalesce(s.share, 'nan'::DOUBLE),
           c.compared, p.base_parameters
    FROM pairs p
    JOIN (SELECT pair_key, sum(entries)::BIGINT AS entries, sum("equal" + nonfinite_same)::BIGINT AS exact,
                 sum(mukherjee_unchanged + nonfinite_same)::BIGINT AS mukherjee,
                 sum(bf16_unchanged + nonfinite_same)::BIGINT AS bf16,
                 sum(update_square_sum) AS updates, sum(base_square_sum) AS bases
          FROM tallies WHERE version = ? GROUP BY pair_key) t ON t.pair_key = p.pair_key
    LEFT JOIN (SELECT pair_key, avg("rank" / least("rows", "columns")) AS share
               FROM spectra WHERE version = ? AND "of" = 'update' AND reason = '' GROUP BY pair_key) s
        ON s.pair_key = p.pair_key
    JOIN (SELECT pair_key, sum(coalesce(list_product(shape), 1))::BIGINT AS compared
          FROM tensors WHERE "match" <> 'tied' GROUP BY pair_key) c ON c.pair_key = p.pair_key"""
NUMBERS_VALUES = [TALLY_VERSION, SPECTRUM_VERSION]

NOTES = "SELECT pair_key, algorithm, data, tags, note FROM notes"

NAMED = "name IN (SELECT unnest(?))"
# By tensor, NULL where the spectrum is from before it was kept.
EFFECTIVE_RANKS = """
    SELECT s.name, e.effective_rank FROM spectra s LEFT JOIN effective_ranks e USING (pair_key, name, "of", version)
    WHERE s.pair_key = ? AND s.version = ? AND s."of" = 'update' AND s.reason = ''"""
OF_SPECTRA = 'pair_key = ? AND version = ? AND "of" = ?'

# Changed entries of each tensor by base magnitude, from the joint histogram, from a first bin of sizes on. Summed in
# the database: the cells of a large pair's histograms are half a gigabyte.
CHANGED_BY_BINADE = f"""
    WITH cells AS (
        SELECT name, unnest(joint_cells) AS cell, unnest(joint_counts) AS n FROM tallies
        WHERE pair_key = ? AND version = ?),
    by_binade AS (
        SELECT name, cell // {N_CHANGE_BINS} AS binade, sum(n)::BIGINT AS n FROM cells
        WHERE cell % {N_CHANGE_BINS} >= ? GROUP BY name, binade)
    SELECT name, list(binade) AS binades, list(n) AS changed FROM by_binade GROUP BY name"""

JOB_COLUMNS = tuple(field.name for field in fields(JobRecord))


def quoted(names: Iterable[str]) -> str:
    """Column names of ours, quoted since some are SQL's words: rows, of, rule."""
    return ", ".join(f'"{name}"' for name in names)


MASKS = f"""
    SELECT name, {quoted(field.name for field in fields(MaskFile))} FROM masks WHERE pair_key = ? AND version = ?"""

REGIONS = """
    SELECT name, "rule", subsets, counts FROM regions
    WHERE base_key = ? AND tuned_keys = ? AND "rule" = ? AND version = ?"""

COUNTED_OVERLAPS = """
    SELECT tuned_keys FROM regions WHERE base_key = ? AND version = ?
    GROUP BY tuned_keys ORDER BY max(stored_at) DESC"""

CONSENSUS = """
    SELECT "rows", "columns", map_rows, map_columns, counts FROM consensus
    WHERE base_key = ? AND tuned_keys = ? AND name = ? AND "rule" = ? AND version = ?"""

STEPS = f"""
    SELECT name, "rule", entries, {quoted(STEP_LISTS)} FROM steps
    WHERE series_key = ? AND "rule" = ? AND version = {DYNAMICS_VERSION}"""

UNCHANGED = """
    SELECT name, entries, equal + nonfinite_same, mukherjee_unchanged + nonfinite_same FROM tallies
    WHERE pair_key = ? AND version = ?"""


def stored_series(row: tuple[str, str, str, datetime]) -> StoredSeries:
    """The series that a row describes."""
    base, checkpoints, labels, registered_at = row
    models = tuple(pinned(text) for text in json.loads(checkpoints))
    return StoredSeries(Series(pinned(base), models), tuple(json.loads(labels)), registered_at)


def pair_row(
    pair: Pair, base: ModelCard, tuned: ModelCard, alignment: Alignment, registered_at: datetime
) -> dict[str, Any]:
    """The row that describes a pair."""
    return {
        "pair_key": pair.key,
        **_side("base", pair.base, base),
        **_side("tuned", pair.tuned, tuned),
        "base_parameters": alignment.base_parameters,
        "tuned_parameters": alignment.tuned_parameters,
        "n_tensors": len(alignment.pairs),
        "n_matrices": sum(tensors.is_matrix for tensors in alignment.pairs),
        "entries": alignment.compared_parameters,
        "registered_at": registered_at,
    }


def _side(side: str, model: PinnedModel, card: ModelCard) -> Mapping[str, Any]:
    columns = {f"{side}_{name}": getattr(model, name) for name in _MODEL_COLUMNS}
    return columns | {f"{side}_card": json.dumps(asdict(card))}


def stored_pair(row: tuple[Any, ...]) -> StoredPair:
    """The pair that a row of PAIRS describes."""
    base, base_card, tuned, tuned_card, rest = row[:4], row[4], row[5:9], row[9], row[10:]
    pair = Pair(_pinned(*base), _pinned(*tuned))
    return StoredPair(pair, _card(base_card), _card(tuned_card), *rest)


def _card(text: str) -> ModelCard:
    fields = json.loads(text)
    return ModelCard(**fields | {"declared": tuple(fields.get("declared", ()))})


# Of cards that say so only; the text is parsed after that.
RESTRICTED = f"""
    SELECT pair_key, {", ".join(_PAIR_COLUMNS)} FROM pairs
    WHERE base_card LIKE '%"restricted": true%' OR tuned_card LIKE '%"restricted": true%'"""


def restricted(row: tuple[Any, ...]) -> tuple[PinnedModel, ...]:
    """The models in a row of RESTRICTED, behind its key, that not everybody may read."""
    sides = (row[:4], row[4]), (row[5:9], row[9])
    return tuple(_pinned(*model) for model, card in sides if _card(card).restricted)


def _pinned(where: Any, name: str, commit: str, subfolder: str) -> PinnedModel:
    return PinnedModel(where, name, commit, subfolder)
