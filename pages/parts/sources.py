"""What each page shows, by name: its tables to take away and its figures, from the store and the view alone.

Two tables of functions. A new page adds its own lines to them, and has its downloads: the menu on the page and the
routes that serve them read nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from analysis import links, provenance, published, tables
from analysis.encoding import Rows
from analysis.errors import NotStored
from analysis.figures import pairs as pairwise
from analysis.figures import upset
from analysis.figures.heatmap import heatmap
from analysis.figures.theme import Figure
from analysis.links import View
from analysis.models import Pair
from cache import code
from pages.parts import course_views, handles, library, lookups, publications, runs, views

Query = Mapping[str, Sequence[str]]


TABLES_OF_VIEW: dict[str, dict[str, Callable[[View], Rows]]] = {
    "pair": {
        "tensors": lambda view: lookups.tensor_rows(views.key(view)),
        "rules": lambda view: tables.rule_counts(lookups.headline(views.key(view))),
        "tolerance": lambda view: tables.curve_rows(
            [lookups.tolerance_curve(views.key(view))], "tolerance", "unchanged_share", "of"
        ),
        "not-compared": lambda view: tables.not_compared_rows(lookups.alignment(views.key(view)).not_compared),
        "not-measured": views.gap_rows,
    },
    "layers": {
        "cells": lambda view: tables.grid_rows(views.grid(view)),
        "heads": views.head_cells,
        "tensors": lambda view: lookups.tensor_rows(views.key(view)),
    },
    "matrix": {
        "numbers": views.matrix_numbers,
        "rows": partial(views.lines, "row"),
        "columns": partial(views.lines, "column"),
        "blocks": views.blocks,
        "heads": partial(views.most_changed, "heads"),
        "change-sizes": lambda view: tables.size_rows(views.tally(view)),
        "magnitudes": lambda view: tables.magnitude_rows(views.tally(view)),
        "singular-values": views.matrix_value_rows,
    },
    "spectra": {
        "by-layer": views.profile_rows,
        "singular-values": lambda view: tables.spectrum_rows(views.each_spectrum(view)),
        "methods": lambda view: tables.spectrum_facts(views.spectra_of(view)),
        "spectral-shifts": views.shift_rows,
    },
    "overlap": {
        "run-against-run": lambda view: tables.overlap_rows(views.overlap(view)),
        "cells": lambda view: tables.grid_rows(views.overlap_grid(view)),
        "regions": lambda view: tables.region_rows(views.overlap(view)),
        "agreement": lambda view: tables.agreement_rows(views.overlap(view)),
        "agreement-cells": lambda view: tables.grid_rows(views.agreement_grid(view)),
        "regions-by-tensor": views.regions,
        "left-out": lambda view: runs.left_out(views.pairs(view), views.labels(view)),
    },
    "dynamics": {"steps": course_views.step_numbers, "patches": course_views.patch_numbers},
}

FIGURES_OF_VIEW: dict[str, dict[str, Callable[[View], Figure]]] = {
    "pair": {"unchanged-over-tolerance": views.over_tolerance},
    "layers": {"heatmap": views.layers},
    "matrix": {
        "blocks": views.block_map,
        "rows": partial(views.along, "row"),
        "columns": partial(views.along, "column"),
        "change-sizes": views.change_sizes,
        "magnitudes": views.by_magnitude,
        "singular-values": views.matrix_values,
        "energy": views.matrix_energy,
    },
    "spectra": {
        "by-layer": views.layer_profiles,
        "singular-values": views.chosen_values,
        "energy": views.chosen_energy,
    },
    "overlap": {
        "regions": lambda view: views.overlap_drawn(view),
        "upset": lambda view: upset.upset(views.overlap(view)),
        "one-sided-overlaps": lambda view: pairwise.pair_matrix(views.overlap(view), "one-sided"),
        "jaccard-indices": lambda view: pairwise.pair_matrix(views.overlap(view), "jaccard"),
        "agreement": lambda view: upset.agreement(views.overlap(view)),
        "agreement-by-layer": lambda view: heatmap(views.agreement_grid(view), fitted=view.one("colours") == "fitted"),
        "by-layer": lambda view: heatmap(views.overlap_grid(view), fitted=view.one("colours") == "fitted"),
    },
    "dynamics": {
        "sparsity": course_views.sparsity,
        "growth": course_views.growth,
        "fates": course_views.fates,
        "by-layer": course_views.by_layer,
        "patch-sizes": course_views.patch_sizes,
    },
}


# Pages about many comparisons: what they show depends on their query alone

TABLES_OF_PAGE: dict[str, dict[str, Callable[[Query], Rows]]] = {
    "library": {"comparisons": lambda query: library.file_rows(library.matching(library.entries(), query))},
    "gallery": {"unchanged": lambda _: _published("unchanged"), "ranks": lambda _: _published("rank")},
}

FIGURES_OF_PAGE: dict[str, dict[str, Callable[[Query], Figure]]] = {
    "library": {"unchanged-over-tolerance": library.over_tolerance, "by-layer": library.by_layer},
}


def _published(measure: published.Measure) -> Rows:
    found = published.published().pairs
    rows = [row for pair, row in publications.all_rows(found, publications.measured(found), measure)]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


# What routes and menus ask for


def table_names(page: str) -> tuple[str, ...]:
    return (*TABLES_OF_VIEW.get(page, ()), *TABLES_OF_PAGE.get(page, ()))


def figure_names(page: str) -> tuple[str, ...]:
    return (*FIGURES_OF_VIEW.get(page, ()), *FIGURES_OF_PAGE.get(page, ()))


def tables_of(page: str, query: Query) -> dict[str, Callable[[], Rows]]:
    """The page's tables, each to be looked up. Raises BadReference for a query that is no view of it, NotStored for a
    pair that was never compared here."""
    return _bound(TABLES_OF_VIEW, TABLES_OF_PAGE, page, query)


def figures_of(page: str, query: Query) -> dict[str, Callable[[], Figure]]:
    """The page's figures, each to be drawn, as `tables_of`."""
    return _bound(FIGURES_OF_VIEW, FIGURES_OF_PAGE, page, query)


def _bound(of_view: Mapping[str, Any], of_page: Mapping[str, Any], page: str, query: Query) -> dict[str, Any]:
    if page in of_view:
        view = stored_view(page, query)
        return {name: partial(function, view) for name, function in of_view[page].items()}
    return {name: partial(function, query) for name, function in of_page.get(page, {}).items()}


def stored_view(page: str, query: Query) -> View:
    """The view that the query names, all of its pairs in the store. Raises BadReference or NotStored; ModelError for a
    pair whose models the Hub does not let this server read any more."""
    view = links.from_query(page, query)
    for pair in views.pairs(view):
        if lookups.stored(pair) is None:
            raise NotStored("This pair has not been compared on this server", do="Open its link and compare it")
        if refusal := handles.access().refusal(pair):
            raise refusal
    return view


def origin(page: str, query: Query, link: str) -> dict[str, Any]:
    """The provenance of what the page shows."""
    bases: list[provenance.Basis] = []
    chosen = {name: tuple(values) for name, values in query.items() if name not in ("base", "tuned")}
    if page in links.CHOICES_OF_PAGE:
        view = stored_view(page, query)
        bases, chosen = [_basis(pair) for pair in views.pairs(view)], dict(view.choices)
    choices = {name: values[0] if len(values) == 1 else list(values) for name, values in chosen.items()}
    return provenance.document(page, bases, choices, link=link, code=code.commit(), written_at=datetime.now(UTC))


def _basis(pair: Pair) -> provenance.Basis:
    known = lookups.stored(pair)
    assert known is not None, "stored_view has looked"
    return provenance.Basis(pair, lookups.alignment(pair.key), len(lookups.tallies(pair.key)), known.last_activity)
