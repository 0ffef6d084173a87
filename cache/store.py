"""The Store: what was measured, which pair it belongs to, and what is still missing. Rows in DuckDB, one file.

    store.register(pair, base_card, tuned_card, alignment)
    for hole in store.holes(pair.key, plan): ... store.put(pair.key, hole.name, measurement)

Writes return a future that is done when the row is on the disk; a reader sees what was committed before it asked.
Rows are keyed by the pair's commits, the tensor, and the version of the kind: when a measurement's meaning changes,
old rows are simply not asked for. Nothing here computes: shares and grids are `analysis.rollup`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.dynamics import Unchanged
from analysis.measurements import (
    PREVIEW_VERSION,
    SPECTRUM_VERSION,
    TALLY_VERSION,
    Gap,
    Magnitudes,
    MaskRule,
    Preview,
    Spectrum,
    Sums,
    Tally,
    first_changed_bin,
)
from analysis.models import Pair, PinnedModel
from analysis.plan import Hole, Plan
from analysis.tensors import Alignment
from cache import alignments, queries, rows, tables
from cache.alignments import Alignments
from cache.batch import Delete
from cache.database import Database
from cache.ledger import Ledger
from cache.masks import MaskFile
from cache.overlap_counts import OverlapCounts
from cache.records import ModelCard, Notes, PairNumbers, StoredPair, now
from cache.series_counts import SeriesCounts

Of = Literal["update", "base", "tuned", "adapter"]
KINDS_OF: tuple[Of, ...] = ("update", "base", "tuned", "adapter")
Counts = NDArray[np.int64]

PAIRS = "pairs"  # what `generation` is asked for: of all pairs

_AT_A_TIME = 8_000  # spectra whose values are read together


class Store:
    """One open store. Safe to call from any thread; a context manager."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._alignments = Alignments(database)
        self.overlaps, self.series, self.ledger = OverlapCounts(database), SeriesCounts(database), Ledger(database)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """The store in this file, created or brought up to date; ':memory:' is one that ends with the process.
        Raises StoreBusy, which names the process that has it open, StoreNewer, or another StoreError."""
        return cls(Database(None if str(path) == ":memory:" else Path(path)))

    def close(self) -> None:
        """Commits what waits and lets go of the file."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generation(self, key: str = PAIRS) -> int:
        """A number that changes with every committed put for this pair; PAIRS stands for all pairs, SERIES for all
        runs, a series' key for its counts, a base model's key for its regions. For caching in memory: it means nothing
        in another process."""
        return self._database.generation(key)

    # Pairs

    def register(self, pair: Pair, base: ModelCard, tuned: ModelCard, alignment: Alignment) -> Future[None]:
        """A future that is done when the pair is known. Again with the same is no work; again with other names or
        cards for the same commits replaces them and keeps the measurements and the first date."""
        found = self.find_pair(pair.key)
        is_known = found and (found.pair, found.base, found.tuned) == (pair, base, tuned)
        if is_known and self.alignment(pair.key) == alignment:
            return _done()
        key = {"pair_key": pair.key}
        registered_at = found.registered_at if found else now()
        new = {
            "pairs": [queries.pair_row(pair, base, tuned, alignment, registered_at)],
            "tensors": [key | tensor for tensor in rows.tensor_rows(alignment)],
            "not_compared": [key | tensor for tensor in rows.not_compared_rows(alignment)],
        }
        deletes = [Delete("tensors", key), Delete("not_compared", key)]
        return self._database.write(new, deletes=deletes, touches=(pair.key, alignments.touched_by(pair.key), PAIRS))

    def pairs(self) -> list[StoredPair]:
        """Every registered pair, the last active first."""
        found = self._database.rows(f"{queries.PAIRS} ORDER BY last_activity DESC", queries.PAIRS_VALUES)
        return [queries.stored_pair(row) for row in found]

    def find_pair(self, key: str) -> StoredPair | None:
        """The pair of this key, or None."""
        found = self._database.rows(f"{queries.PAIRS} WHERE p.pair_key = ?", [*queries.PAIRS_VALUES, key])
        return queries.stored_pair(found[0]) if found else None

    def pairs_called(self, base: str, tuned: str) -> list[str]:
        """The keys of the pairs of models that are called so, at any commit where none is named; of a name that is
        spelled in another way, nothing."""
        found = self._database.rows(queries.CALLED, [queries.spellings(base), queries.spellings(tuned)])
        return [key for (key,) in found]

    def restricted(self) -> dict[str, tuple[PinnedModel, ...]]:
        """By pair key, the models of a pair that not everybody may read: private or gated when looked up last."""
        found = {key: queries.restricted(tuple(row)) for key, *row in self._database.rows(queries.RESTRICTED)}
        return {key: models for key, models in found.items() if models}

    def pairs_of_same_tuned(self, key: str) -> list[str]:
        """The keys of the other pairs with this pair's tuned model, in which something is measured."""
        sql = """
            SELECT other.pair_key FROM pairs p JOIN pairs other USING (tuned_commit, tuned_subfolder)
            WHERE p.pair_key = ? AND other.pair_key <> p.pair_key
            AND other.pair_key IN (SELECT pair_key FROM tallies WHERE version = ?) ORDER BY other.registered_at"""
        return [other for (other,) in self._database.rows(sql, [key, TALLY_VERSION])]

    def alignment(self, key: str) -> Alignment:
        """The pair's tensors as they were registered. Raises StoreError for a pair that is not."""
        return self._alignments.of(key)

    def numbers(self) -> dict[str, PairNumbers]:
        """The headline amounts of every pair that has measurements, by pair key, without reading them one by one."""
        found = self._database.rows(queries.NUMBERS, queries.NUMBERS_VALUES)
        return {key: PairNumbers(*amounts) for key, *amounts in found}

    # What people write

    def annotate(self, key: str, notes: Notes) -> Future[None]:
        """A future that is done when these notes have replaced the pair's earlier ones."""
        row = asdict(notes) | {"tags": list(notes.tags), "pair_key": key, "stored_at": now()}
        return self._database.write({"notes": [row]})

    def notes(self) -> dict[str, Notes]:
        """What was written about pairs, by pair key."""
        found = self._database.rows(queries.NOTES, [])
        return {key: Notes(algorithm, data, tuple(tags), note) for key, algorithm, data, tags, note in found}

    # Measurements

    def holes(self, key: str, plan: Plan, *, masks_too: bool = False) -> list[Hole]:
        """What the plan wants and the store has not, in the plan's order. A gap counts as stored.

        With `masks_too` (an overlap needs them) a tally without all masks of the plan's rules is a hole again, unless
        a gap of kind 'tally' or 'overlap' says why. See `masks_for`: one mask may serve two rules."""
        found = self._database.rows(queries.STORED, queries.stored_values(key))
        stored = {hole for hole in found if hole[0] != "overlap"}  # (kind, name, of)
        if masks_too:
            whole = set.intersection(*(set(self.masks_for(key, rule)) for rule in plan.mask_rules))
            excused = {name for kind, name in self.gaps(key) if kind in ("tally", "overlap")}
            there = whole | excused
            stored -= {hole for hole in stored if hole[::2] == ("tally", "update") and hole[1] not in there}
        return [h for h in plan.wanted(self.alignment(key)) if (h.kind, h.name, h.of) not in stored]

    def ask(self, key: str, plan: Plan) -> Future[None]:
        """A future that is done when it is on record that somebody asked for this plan."""
        row = {"pair_key": key, "plan": json.dumps(asdict(plan), sort_keys=True), "asked_at": now()}
        return self._database.write({"asked": [row]}, touches=(key, PAIRS))

    def asked(self, key: str) -> tuple[Plan, ...]:
        """What was asked for of this pair, the oldest first; of a pair that nobody asked for, everything."""
        found = self._database.rows("SELECT plan FROM asked WHERE pair_key = ? ORDER BY asked_at, plan", [key])
        return tuple(Plan.from_dict(json.loads(text)) for (text,) in found) or (Plan(),)

    def put(
        self,
        key: str,
        name: str,
        measurement: Tally | Preview | Spectrum | Gap,
        *,
        masks: Sequence[MaskFile] = (),
        of: Of = "update",
    ) -> Future[None]:
        """A future that is done when the measurement of this tensor, and its masks, are on the disk. The same again
        replaces; a gap beside a measurement of its kind is dropped. `of` says which update a tally is of ('adapter' is
        an adapter's own, before it is rounded to the base's type), and which one a gap stands for."""
        at = {"pair_key": key, "name": name, "stored_at": now()}
        new: dict[str, list[rows.Row]] = {"masks": [at | asdict(mask) | {"version": TALLY_VERSION} for mask in masks]}
        match measurement:
            case Tally():
                new[tables.TALLIES_OF[of]] = [at | rows.tally_row(measurement) | {"version": TALLY_VERSION}]
            case Preview():
                new["previews"] = [at | rows.preview_row(measurement) | {"version": PREVIEW_VERSION}]
            case Spectrum():
                new["spectra"] = [at | rows.spectrum_row(measurement) | {"version": SPECTRUM_VERSION}]
                new["effective_ranks"] = [rows.effective_rank_row(key, name, measurement)]
            case Gap(kind, reason):
                version = queries.VERSION_OF_GAP[kind]
                new["gaps"] = [at | {"kind": kind, "of": of, "version": version, "reason": reason}]
        return self._database.write(new, touches=(key, PAIRS))

    def tallies(self, key: str, of: Of = "update", *, arrays: bool = True) -> dict[str, Tally]:
        """Tallies by tensor name. `arrays=False` is the light read: joint has one row, summed over binades (so that
        `changes` and `unchanged` hold, `changed_by_binade('exact')` doesn't), and every other array is empty."""
        shaped = tables.TALLY_SHAPED if arrays else ()
        return self._tallies("pair_key = ? AND version = ?", [key, TALLY_VERSION], shaped, of)

    def magnitudes(self, key: str, rule: MaskRule) -> dict[str, Magnitudes]:
        """Entries, and those the rule calls changed, by base magnitude and tensor name: what the matched chance needs
        of the tallies, and no more."""
        by_binade = f"{rule}_binades" if rule in ("mukherjee", "bf16") else ""
        names = ["name", "base_binades", *filter(None, [by_binade])]
        sql = f"SELECT {queries.quoted(names)} FROM tallies WHERE pair_key = ? AND version = ?"
        found = self._database.arrow(sql, [key, TALLY_VERSION])
        if by_binade:
            return rows.magnitudes(found, found[by_binade])
        values = [key, TALLY_VERSION, first_changed_bin(rule)]
        changed = self._database.arrow(queries.CHANGED_BY_BINADE, values)
        return rows.magnitudes(found, rows.spread_over_binades(changed, found["name"]))

    def tally(self, key: str, name: str, of: Of = "update") -> Tally | None:
        """One tensor's tally, with all its arrays, or None."""
        values = [key, TALLY_VERSION, name]
        where = "pair_key = ? AND version = ? AND name = ?"
        return self._tallies(where, values, tables.TALLY_SHAPED, of).get(name)

    def line_changes(self, key: str, names: Sequence[str], along: Literal["row", "column"]) -> dict[str, Counts]:
        """Changed entries of each row or column of these tensors, by name, and nothing else of them."""
        sql = f"""
            SELECT name, {along}_changes AS changes FROM tallies
            WHERE pair_key = ? AND version = ? AND name IN (SELECT unnest(?))"""
        return rows.line_changes(self._database.arrow(sql, [key, TALLY_VERSION, list(names)]))

    def spectra(
        self, key: str, of: Of = "update", *, arrays: bool = True, names: Sequence[str] | None = None
    ) -> dict[str, Spectrum]:
        """Spectra by tensor name, of all tensors or of `names`; without `arrays` their singular values are empty."""
        where, values = queries.OF_SPECTRA, [key, SPECTRUM_VERSION, of]
        if names is not None:
            where, values = f"{where} AND {queries.NAMED}", [*values, list(names)]
        return self._spectra(where, values, arrays)

    def each_spectrum(self, key: str) -> Iterator[tuple[str, Spectrum]]:
        """(tensor name, spectrum of its update with the values), some thousand of them in memory at a time."""
        values = [key, SPECTRUM_VERSION, "update"]
        found = self._database.rows(f"SELECT name FROM spectra WHERE {queries.OF_SPECTRA}", values)
        for at in range(0, len(found), _AT_A_TIME):
            names = [name for (name,) in found[at : at + _AT_A_TIME]]
            yield from self.spectra(key, names=names).items()

    def effective_ranks(self, key: str) -> dict[str, float]:
        """The effective rank of every measured update by tensor, nan for zero, without its singular values; those of
        spectra from before it was kept beside them are found once."""
        found = dict(self._database.rows(queries.EFFECTIVE_RANKS, [key, SPECTRUM_VERSION]))
        missing = [name for name, value in found.items() if value is None]
        for at in range(0, len(missing), _AT_A_TIME):
            read = self.spectra(key, names=missing[at : at + _AT_A_TIME])
            new = [rows.effective_rank_row(key, name, one) for name, one in read.items()]
            found |= {row["name"]: row["effective_rank"] for row in new}
            self._database.write({"effective_ranks": new})
        return {name: value for name, value in found.items() if value is not None}

    def spectrum(self, key: str, name: str, of: Of = "update") -> Spectrum | None:
        """One matrix's spectrum, or None."""
        values = [key, SPECTRUM_VERSION, of, name]
        return self._spectra(f"{queries.OF_SPECTRA} AND name = ?", values, True).get(name)

    def preview(self, key: str, name: str) -> Preview | None:
        """An estimate of one update's singular values, where they are not stored themselves; else None."""
        columns = queries.quoted(["name", *tables.PREVIEW_COLUMNS])
        sql = f"SELECT {columns} FROM previews WHERE {queries.PREVIEW_IN_USE}"
        return rows.previews(
            self._database.arrow(sql, [key, PREVIEW_VERSION, name, SPECTRUM_VERSION, SPECTRUM_VERSION])
        ).get(name)

    def gaps(self, key: str, of: Of = "update") -> dict[tuple[str, str], str]:
        """Why a measurement is missing, by (kind, tensor name)."""
        found = self._database.rows(
            f'SELECT kind, name, reason FROM gaps WHERE pair_key = ? AND "of" = ? AND {queries.GAP_SHOWN}',
            [key, of, *queries.GAP_VALUES],
        )
        return {(kind, name): reason for kind, name, reason in found}

    def forget_gaps(self, key: str) -> Future[None]:
        """A future that is done when every gap of this pair is a hole again: a new try, maybe with more memory."""
        return self._database.write({}, deletes=[Delete("gaps", {"pair_key": key})], touches=(key, PAIRS))

    def forget_measurements(self, key: str, holes: Sequence[Hole]) -> Future[None]:
        """A future that is done when these are holes again, and masks that came with them are off the record."""
        deletes = []
        for hole in holes:
            where = {"pair_key": key, "name": hole.name}
            if hole.kind != "tally":
                table = {"preview": "previews", "spectrum": "spectra"}[hole.kind]
                deletes.append(Delete(table, where | {"of": hole.of}))
            else:
                deletes += [Delete(tables.TALLIES_OF[hole.of], where)]
                deletes += [Delete("masks", where)] if hole.of == "update" else []
            deletes.append(Delete("gaps", where | {"kind": hole.kind, "of": hole.of}))
        return self._database.write({}, deletes=deletes, touches=(key, PAIRS))

    def unchanged(self, key: str) -> dict[str, Unchanged]:
        """Entries and unchanged entries of each tallied tensor, under both rules that have masks: the lightest read."""
        found = self._database.rows(queries.UNCHANGED, [key, TALLY_VERSION])
        return {name: Unchanged(*counts) for name, *counts in found}

    def sums(self, key: str) -> dict[str, Sums]:
        """What a correlation needs of each tallied tensor: a light read."""
        columns = queries.quoted(field.name for field in fields(Sums))
        sql = f"SELECT name, {columns} FROM tallies WHERE pair_key = ? AND version = ?"
        return {name: Sums(*amounts) for name, *amounts in self._database.rows(sql, [key, TALLY_VERSION])}

    # Masks: where their files lie

    def masks(self, key: str) -> dict[tuple[str, MaskRule], MaskFile]:
        """Where the pair's masks lie, by (tensor name, rule)."""
        found = self._database.rows(queries.MASKS, [key, TALLY_VERSION])
        return {(name, mask[0]): MaskFile(*mask) for name, *mask in found}

    def masks_for(self, key: str, rule: MaskRule) -> dict[str, MaskFile]:
        """The masks that tell what `rule` calls changed, by tensor name. Whatever another rule calls changed the exact
        rule does too; so where both count as many entries, the exact rule's mask is that of the other as well."""
        found = {name: mask for (name, of), mask in self.masks(key).items() if of == rule}
        if rule == "exact":
            return found
        tallies = self.tallies(key, arrays=False)
        exact = {name: mask for (name, of), mask in self.masks(key).items() if of == "exact" and name in tallies}
        same = {n: m for n, m in exact.items() if m.changed == m.entries - tallies[n].unchanged(rule)}
        return same | found

    def forget_masks(self, keys: Iterable[str]) -> Future[None]:
        """A future that is done when no mask of these pairs is on record; the files are `cache.masks`' to remove."""
        keys = tuple(keys)
        return self._database.write(
            {}, deletes=[Delete("masks", {"pair_key": key}) for key in keys], touches=(*keys, PAIRS)
        )

    def _tallies(self, where: str, values: list[object], more: Sequence[str], of: Of = "update") -> dict[str, Tally]:
        light = () if more else ("changes",)
        names = queries.quoted(["name", *tables.TALLY_NUMBERS, *light, *more])
        table = tables.TALLIES_OF[of]
        return rows.tallies(self._database.arrow(f"SELECT {names} FROM {table} WHERE {where}", values))

    def _spectra(self, where: str, values: list[object], arrays: bool) -> dict[str, Spectrum]:
        names = ["name", *tables.SPECTRUM_NUMBERS, *(["singular_values"] if arrays else [])]
        return rows.spectra(self._database.arrow(f"SELECT {queries.quoted(names)} FROM spectra WHERE {where}", values))


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future
