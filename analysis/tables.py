"""The numbers behind a view as rows, for tables on the page and files to take away."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.labels import count, letter, percent, rule_title, scientific, share, visible
from analysis.measurements import (
    CHANGE_EDGES,
    FIRST_BINADE,
    LAST_BINADE,
    MAX_DENSITY_SIDE,
    N_BINADES,
    RELATIVE_EDGES,
    RULES,
    ULP_EDGES,
    Preview,
    Regions,
    Spectrum,
    Tally,
)
from analysis.metrics import cosine, effective_rank, energy_rank, mean_change, relative_update, stable_rank
from analysis.noise import above_noise
from analysis.overlaps import Venn, over
from analysis.rollup import OUTSIDE_LAYERS, Cell, Curve, Grid, Headline
from analysis.tensors import TITLE_OF_MATCH, Alignment, NotCompared, TensorPair

Row = dict[str, object]
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones count where people type them


def harmless(text: str) -> str:
    """Strangers' text for a file: hidden characters spelled out, and a leading quote before what a spreadsheet would
    run as a formula."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown


def tensor_rows(alignment: Alignment, tallies: Mapping[str, Tally], spectra: Mapping[str, Spectrum]) -> list[Row]:
    """One row a compared tensor that is measured: counts first, since shares follow from them."""
    rows: list[Row] = []
    for pair in alignment.pairs:
        tally = tallies.get(pair.name)
        if tally is None:
            continue
        part, whole = relative_update(tally)
        rows.append(
            {
                "name": pair.name,
                "layer": pair.place.layer,
                "module": pair.place.module,
                "expert": pair.place.expert,
                "match": pair.match,
                "base_name": pair.base.name,
                "tuned_name": pair.tuned.name,
                "shape": " x ".join(map(str, pair.shape)),
                "entries": tally.entries,
                "nonfinite": tally.nonfinite,
                **{f"unchanged_{rule}": tally.unchanged(rule) for rule in RULES},
                "relative_update": _over(part, whole),
                **_spectral(spectra.get(pair.name)),
            }
        )
    return rows


def _spectral(spectrum: Spectrum | None) -> Row:
    names = ("rank", "max_rank", "stable_rank", "effective_rank")
    if spectrum is None or spectrum.reason:
        return dict.fromkeys(names, math.nan)
    values = spectrum.singular_values
    return dict(
        zip(names, (spectrum.rank, spectrum.max_rank, stable_rank(values), effective_rank(values)), strict=True)
    )


def rule_rows(found: Headline) -> list[Row]:
    """One row a rule of what counts as unchanged."""
    return [
        {
            "rule": rule_title(rule),
            "unchanged": unchanged.part,
            "changed": unchanged.whole - unchanged.part,
            "unchanged share": percent(unchanged.part, unchanged.whole),
        }
        for rule, unchanged in found.unchanged.items()
    ]


def number_rows(pair: TensorPair, tally: Tally, spectrum: Spectrum | None) -> list[Row]:
    """Every number of one tensor by its name, as text with its meaning."""
    part, whole = relative_update(tally)
    rows: list[Row] = [
        {
            "number": f"unchanged, {rule_title(rule)}",
            "value": count(tally.unchanged(rule)),
            "share": _share(tally, rule),
        }
        for rule in RULES
    ]
    amounts = {
        "entries": count(tally.entries),
        "not finite on either side": count(tally.nonfinite),
        "sign flips": count(tally.sign_flips),
        "largest change": scientific(tally.max_abs_update, 5),
        "mean change": scientific(_over(*mean_change(tally)), 5),
        "Frobenius norm of the update": scientific(part, 5),
        "Frobenius norm of the base": scientific(whole, 5),
        "‖update‖ / ‖base‖": scientific(_over(part, whole), 5),
        "1 − cosine": scientific(_over(*cosine(tally)), 5),
    }
    if spectrum is not None and not spectrum.reason:
        amounts |= _spectral_texts(spectrum, tally)
    rows += [{"number": name, "value": value, "share": ""} for name, value in amounts.items()]
    return [{"tensor": pair.name, **row} for row in rows]


def _spectral_texts(spectrum: Spectrum, tally: Tally) -> dict[str, str]:
    values = spectrum.singular_values
    directions, energy, whole = above_noise(spectrum, tally)
    return {
        "rank": f"{spectrum.rank} of {spectrum.max_rank}",
        "rank, bounds of the method": f"{spectrum.rank_low} to {spectrum.rank_high}",
        "rank threshold": scientific(spectrum.tolerance, 5),
        "stable rank": scientific(stable_rank(values), 5),
        "effective rank": scientific(effective_rank(values), 5),
        **{f"directions for {p} % of the energy": scientific(energy_rank(values, p / 100), 5) for p in (90, 95, 99)},
        "directions above noise": count(directions),
        "energy above noise": share(energy / whole) if whole else "–",
        "largest singular value": scientific(float(values[0]), 5) if len(values) else "–",
        "method": spectrum.method,
    }


def _share(tally: Tally, rule: str) -> str:
    return percent(tally.unchanged(rule), tally.entries)


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def rule_counts(found: Headline) -> list[Row]:
    """One row a rule, in numbers alone, for files."""
    return [
        {
            "rule": rule,
            "unchanged": unchanged.part,
            "changed": unchanged.whole - unchanged.part,
            "entries": unchanged.whole,
            "unchanged_share": unchanged.value,
        }
        for rule, unchanged in found.unchanged.items()
    ]


def number_values(pair: TensorPair, tally: Tally, spectrum: Spectrum | None) -> list[Row]:
    """Every number of one tensor by its name, in numbers alone, for files."""
    part, whole = relative_update(tally)
    values: dict[str, float | int | None] = {
        "entries": tally.entries,
        "nonfinite": tally.nonfinite,
        **{f"unchanged_{rule}": tally.unchanged(rule) for rule in RULES},
        "sign_flips": tally.sign_flips,
        "largest_change": tally.max_abs_update,
        "mean_change": _over(*mean_change(tally)),
        "frobenius_update": part,
        "frobenius_base": whole,
        "update_over_base": _over(part, whole),
        "one_minus_cosine": _over(*cosine(tally)),
    }
    if spectrum is not None and not spectrum.reason:
        directions, energy, square_sum = above_noise(spectrum, tally)
        values |= _spectral(spectrum)  # type: ignore[arg-type]
        values |= {f"directions_for_{p}_percent": energy_rank(spectrum.singular_values, p / 100) for p in (90, 95, 99)}
        values |= {
            "rank_low": spectrum.rank_low,
            "rank_high": spectrum.rank_high,
            "rank_threshold": spectrum.tolerance,
            "directions_above_noise": directions,
            "energy_above_noise": _over(energy, square_sum),
        }
    return [{"tensor": pair.name, "number": name, "value": value} for name, value in values.items()]


def size_rows(tally: Tally) -> list[Row]:
    """One row a bin that holds a change: its size above `above` and up to `to`, by each of the three measures."""
    rows: list[Row] = []
    for measure, edges, counts in (
        ("absolute", CHANGE_EDGES, tally.changes),
        ("relative", RELATIVE_EDGES, tally.relative),
        ("units in the last place", ULP_EDGES, tally.ulps),
    ):
        bounds = [0.0, *edges.tolist(), math.inf]
        rows += [
            {"measure": measure, "above": bounds[k], "to": bounds[k + 1], "changed": int(counts[k])}
            for k in np.flatnonzero(counts)
        ]
    flips: list[Row] = [{"measure": "sign flipped", "above": math.nan, "to": math.nan, "changed": tally.sign_flips}]
    return rows + (flips if tally.sign_flips else [])


def match_rows(alignment: Alignment) -> list[Row]:
    """One row a way in which pairs were found."""
    of_base, of_tuned = alignment.covered("base"), alignment.covered("tuned")
    n_pairs = Counter(pair.match for pair in alignment.pairs)
    return [
        {
            "matched by": title,
            "pairs": n_pairs[match],
            "parameters of base": of_base.get(match, 0),
            "parameters of tuned": of_tuned.get(match, 0),
        }
        for match, title in TITLE_OF_MATCH.items()
        if n_pairs[match]
    ]


def not_compared_rows(entries: Sequence[NotCompared]) -> list[Row]:
    return [
        {"tensor": one.name, "side": one.side, "reason": one.reason, "parameters": one.parameters} for one in entries
    ]


def grid_rows(grid: Grid) -> list[Row]:
    """One row a cell of the heatmap."""
    return [
        {
            "module": module,
            "layer": None if grid.layers[column] == OUTSIDE_LAYERS else grid.layers[column],
            grid.metric.key: float(grid.values[row, column]),
            "state": Cell(grid.states[row, column]).name.lower(),
            "tensors": len(grid.names[row][column]),
        }
        for row, module in enumerate(grid.modules)
        for column in range(len(grid.layers))
        if grid.states[row, column] != Cell.ABSENT
    ]


def curve_rows(curves: Sequence[Curve], x: str, y: str, name: str = "curve") -> list[Row]:
    """One row a point of the curves."""
    return [
        {name: curve.label, x: float(at), y: float(value)}
        for curve in curves
        for at, value in zip(curve.x, curve.y, strict=True)
    ]


def spectrum_rows(spectra: Iterable[tuple[str, Spectrum]]) -> Iterator[Row]:
    """One row a singular value, made as they are asked for: a large model has millions."""
    for name, spectrum in spectra:
        for position, value in enumerate(spectrum.singular_values, start=1):
            yield {"tensor": name, "position": position, "singular_value": float(value)}


def preview_rows(name: str, preview: Preview) -> list[Row]:
    """One row a point of the estimated curve; `is` says so in every row, and no column has an exact value's name."""
    return [
        {"tensor": name, "is": "preview", "position": round(float(at)), "estimated_singular_value": float(value)}
        for at, value in zip(preview.positions, preview.values, strict=True)
    ]


def spectrum_facts(spectra: Mapping[str, Spectrum]) -> list[Row]:
    """One row a matrix: how its singular values were found, or why there are none."""
    return [
        {
            "tensor": name,
            "rows": spectrum.rows,
            "columns": spectrum.columns,
            "rank": spectrum.rank,
            "rank_low": spectrum.rank_low,
            "rank_high": spectrum.rank_high,
            "rank_threshold": spectrum.tolerance,
            "method": spectrum.method,
            "reason": spectrum.reason,
        }
        for name, spectrum in spectra.items()
    ]


def line_rows(changes: NDArray[np.int64], width: int, what: str) -> list[Row]:
    """One row a row or column of a matrix: how many of its `width` entries changed."""
    return [
        {what: index, "changed": int(n), "entries": width, "changed_share": _over(int(n), width)}
        for index, n in enumerate(changes)
    ]


def block_rows(counts: NDArray[np.int64], rows: int, columns: int) -> list[Row]:
    """One row a block of a (rows, columns) matrix; blocks at its end may be smaller."""
    down, across = (max(math.ceil(side / MAX_DENSITY_SIDE), 1) for side in (rows, columns))
    found: list[Row] = []
    for (i, j), n in np.ndenumerate(counts):
        place = {"first_row": i * down, "last_row": min((i + 1) * down, rows) - 1}
        place |= {"first_column": j * across, "last_column": min((j + 1) * across, columns) - 1}
        entries = (place["last_row"] - i * down + 1) * (place["last_column"] - j * across + 1)
        found.append({**place, "changed": int(n), "entries": entries, "changed_share": _over(int(n), entries)})
    return found


def magnitude_rows(tally: Tally) -> list[Row]:
    """One row a power of two of the base weight: from the first number, below the second."""
    lows = [0.0, 0.0, *(2.0**power for power in range(FIRST_BINADE, LAST_BINADE + 2))]
    highs = [0.0, *lows[2:], None]
    exact, mukherjee = tally.changed_by_binade("exact"), tally.changed_by_binade("mukherjee")
    return [
        {
            "from": lows[k],
            "below": highs[k],
            "entries": int(tally.base_binades[k]),
            "changed_exact": int(exact[k]),
            "changed_mukherjee": int(mukherjee[k]),
        }
        for k in range(N_BINADES)
    ]


def tensor_region_rows(labels: Sequence[str], regions: Mapping[str, Regions]) -> Iterator[Row]:
    """One row a tensor and set of models: the entries that exactly these changed. 'none' is the set of no model."""
    for name, region in regions.items():
        for subset, n in zip(region.subsets.tolist(), region.counts.tolist(), strict=True):
            models = [label for bit, label in enumerate(labels) if subset >> bit & 1]
            yield {"tensor": name, "region": subset, "models": " and ".join(models) or "none", "entries": n}


def overlap_rows(venn: Venn) -> list[Row]:
    """One row an ordered pair of models."""
    k = range(venn.n_models)
    return [
        {
            "rule": venn.rule,
            "of": venn.labels[i],
            "in": venn.labels[j],
            "changed": venn.changed(i),
            "changed_by_both": venn.changed(i, j),
            "one_sided_overlap": venn.one_sided(i, j),
            "chance": venn.chance(i, j),
            "chance_matched": venn.matched_chance(i, j),
            "jaccard": venn.jaccard(i, j),
        }
        for i in k
        for j in k
        if i != j
    ]


def left_out_rows(labels: Sequence[str], left_out: Mapping[str, Sequence[tuple[int, ...] | None]]) -> list[Row]:
    """One row a tensor that an overlap leaves out: its shape in each model, nothing where that does not have it."""
    texts = {name: [None if one is None else str(list(one)) for one in shapes] for name, shapes in left_out.items()}
    return [{"tensor": name} | dict(zip(labels, shapes, strict=True)) for name, shapes in texts.items()]


def region_rows(venn: Venn) -> list[Row]:
    """One row a region that occurs, the largest first: which of the models changed its entries, a column a model, and
    how many entries chance would put there."""
    occurring = [subset for subset in np.argsort(-venn.counts, kind="stable") if venn.counts[subset]]
    return [
        {
            "rule": venn.rule,
            "models": int(subset).bit_count(),
            **{f"{letter(bit)} {label}": int(subset) >> bit & 1 for bit, label in enumerate(venn.labels)},
            "entries": int(venn.counts[subset]),
            "share_of_entries": over(venn.counts[subset], venn.entries),
            **_by_chance(venn.counts[subset], venn.expected[subset], venn.matched[subset]),
        }
        for subset in occurring
    ]


def agreement_rows(venn: Venn) -> list[Row]:
    """One row a number of runs: entries that exactly so many changed, beside chance."""
    by_chance = zip(venn.by_runs, venn.expected_by_runs, venn.matched_by_runs, strict=True)
    return [
        {
            "rule": venn.rule,
            "runs": n_runs,
            "of": venn.n_models,
            "entries": int(counted),
            "share_of_entries": over(counted, venn.entries),
            **_by_chance(counted, expected, matched),
        }
        for n_runs, (counted, expected, matched) in enumerate(by_chance)
    ]


def _by_chance(counted: int, expected: float, matched: float) -> Row:
    return {
        "chance": float(expected),
        "chance_matched": float(matched),
        "over_chance_matched": over(counted, matched),
    }


def agreement_by_tensor(alignment: Alignment, regions: Mapping[str, Regions]) -> list[Row]:
    """One row a counted tensor: how many of its entries exactly 0, 1 ... of the models changed."""
    return [
        {
            "name": pair.name,
            "layer": pair.place.layer,
            "module": pair.place.module,
            "expert": pair.place.expert,
            "entries": int(regions[pair.name].counts.sum()),
            **_runs_of(regions[pair.name]),
        }
        for pair in alignment.pairs
        if pair.name in regions
    ]


def _runs_of(region: Regions) -> Row:
    n_runs = np.bitwise_count(region.subsets)
    return {f"changed_by_{n}": int(region.counts[n_runs == n].sum()) for n in range(region.n_models + 1)}
