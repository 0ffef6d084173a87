"""The numbers and figures of each view, from the store and the view alone: pages show them, files are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from analysis import rollup, tables
from analysis.encoding import Rows
from analysis.errors import BadReference, NotStored
from analysis.figures import curves, density, profiles, sizes, spectra, upset, venn
from analysis.figures.heatmap import heatmap
from analysis.figures.theme import Figure
from analysis.labels import rule_title, short_titles
from analysis.links import EDGE_OF_TOLERANCE, View
from analysis.measurements import CHANGE_EDGES, MaskRule, Preview, Spectrum, Tally
from analysis.metrics import CATALOG
from analysis.models import Pair
from analysis.overlaps import Venn
from analysis.tensors import TensorPair
from pages.parts import attention, comparing_spectra, handles, lookups, one_matrix, runs, sides


def key(view: View) -> str:
    """The key of the view's pair."""
    return Pair(view.base, view.tuned[0]).key


def grid(view: View) -> rollup.Grid:
    return lookups.grid(key(view), view.metric, view.one("tolerance"))


def over_tolerance(view: View) -> Figure:
    curve = lookups.tolerance_curve(key(view))
    chosen = curve.x[EDGE_OF_TOLERANCE[view.one("tolerance")]] if view.one("rule") == "tolerance" else None
    return curves.sparsity_over_tolerance([curve], chosen=chosen)


def layers(view: View) -> Figure:
    return heatmap(grid(view), fitted=view.one("colours") == "fitted")


def tensor(view: View) -> TensorPair:
    """The compared tensor that the view names. Raises NotStored."""
    known = lookups.tensor(key(view), view.one("name"))
    if known is None:
        raise NotStored("The pair has no compared tensor of this name", do="Pick one on the layers page")
    return known


def tally(view: View) -> Tally:
    """The tally of the view's tensor. Raises NotStored."""
    found = lookups.tally(key(view), tensor(view).name)
    if found is None:
        raise NotStored("This tensor is not measured", do="Look at its page for the reason")
    return found


def spectrum(view: View) -> Spectrum:
    """The spectrum of the view's matrix. Raises NotStored."""
    found = lookups.spectrum(key(view), tensor(view).name)
    if found is None or found.reason:
        raise NotStored("This tensor has no singular values", do="Look at its page for the reason")
    return found


def matrix_numbers(view: View) -> Rows:
    name = tensor(view).name
    return tables.number_values(tensor(view), tally(view), lookups.spectrum(key(view), name))


def along(what: str, view: View) -> Figure:
    found = tally(view)
    changes, others = found.row_changes, found.column_changes
    if what == "column":
        changes, others = others, changes
    heads = attention.heads(key(view), tensor(view))
    parted = heads if heads and heads.along == what else None
    return profiles.along(changes, len(others), "entry" if len(found.row_changes) == 1 else what, parted)


def lines(what: str, view: View) -> Rows:
    found = tally(view)
    changes, others = found.row_changes, found.column_changes
    if what == "column":
        changes, others = others, changes
    return tables.line_rows(changes, len(others), what)


def most_changed(name: str, view: View) -> Rows:
    """The heads, rows or columns of the matrix by the share that changed; nothing where it has none of them."""
    return attention.most_changed(key(view), tensor(view), tally(view)).get(name, ())


def head_cells(view: View) -> Rows:
    """The heatmap of heads over layers; nothing where the config does not tell of heads."""
    grid = attention.head_grid(view, key(view))
    return () if grid is None else tables.grid_rows(grid)


def blocks(view: View) -> Rows:
    found = tally(view)
    return tables.block_rows(found.density, len(found.row_changes), len(found.column_changes))


def block_map(view: View) -> Figure:
    found = tally(view)
    whole = view.one("colours") == "full"
    return density.density_map(found.density, len(found.row_changes), len(found.column_changes), whole_range=whole)


def change_sizes(view: View) -> Figure:
    """How large the changes are, by the measure that the view names."""
    found, measure = tally(view), view.one("sizes")
    if measure == "relative":
        return sizes.relative_sizes(found.relative)
    if measure == "ulps":
        return sizes.ulp_sizes(found.ulps, found.sign_flips)
    edge = EDGE_OF_TOLERANCE[view.one("tolerance")]
    return sizes.change_sizes(found.changes, float(CHANGE_EDGES[edge]) if view.one("rule") == "tolerance" else None)


def by_magnitude(view: View) -> Figure:
    found = tally(view)
    return profiles.by_magnitude(changed_by_magnitude(view, found), found.base_binades)


def changed_by_magnitude(view: View, tally: Tally) -> Mapping[str, NDArray[np.int64]]:
    """Changed entries by the base weight's power of two: under the published rules, and the one chosen."""
    rule, tolerance = view.one("rule"), view.one("tolerance")
    edge = EDGE_OF_TOLERANCE[tolerance]
    return {
        f"changed, {rule_title(name, tolerance)}": tally.changed_beyond(edge)
        if name == "tolerance"
        else tally.changed_by_binade(cast(MaskRule, name))
        for name in dict.fromkeys(("exact", "mukherjee", rule))
    }


def preview(view: View) -> Preview | None:
    """The estimate that stands where the matrix's spectrum is still to come."""
    return lookups.preview(key(view), tensor(view).name)


def matrix_value_rows(view: View) -> Rows:
    """The singular values; while they are still to come, points of their preview, which say so."""
    name, estimated = tensor(view).name, preview(view)
    return tables.preview_rows(name, estimated) if estimated else tables.spectrum_rows([(name, spectrum(view))])


def matrix_values(view: View) -> Figure:
    """The same, drawn."""
    if estimated := preview(view):
        return spectra.preview(tensor(view).name, estimated)
    return spectra.singular_values(updates_drawn(view), with_threshold=True, with_noise=True)


def matrix_energy(view: View) -> Figure:
    drawn = updates_drawn(view)
    noise = [rollup.noise_energy_curve(found, label) for label, found in drawn]
    return spectra.energy([rollup.energy_curve(found, label) for label, found in drawn], noise=noise)


def updates_drawn(view: View) -> list[tuple[str, Spectrum]]:
    """The update's spectrum, and beside it the adapter's own where the tuned side is one."""
    known = tensor(view)
    return one_matrix.updates_to_draw(known, spectrum(view), one_matrix.own_update(key(view), known))


def measured_spectra(view: View) -> Mapping[str, Spectrum]:
    """Every spectrum of the pair that has values, by tensor, without these: of what merging leaves, or of the adapter's
    own update."""
    if not shows_own(view):
        return lookups.measured_spectra(key(view))
    return {name: one for name, one in spectra_of(view).items() if not one.reason}


def spectra_of(view: View) -> Mapping[str, Spectrum]:
    """All spectra of the view's kind, also those that say why they have no values; see `each_spectrum` for these."""
    return lookups.own_updates(key(view)).spectra if shows_own(view) else lookups.spectra(key(view))


def each_spectrum(view: View) -> Iterable[tuple[str, Spectrum]]:
    """(tensor name, spectrum with its singular values) of all that have them."""
    return measured_spectra(view).items() if shows_own(view) else lookups.each_spectrum(key(view))


def shift_rows(view: View) -> Rows:
    """How far the singular values of base and tuned lie apart, where both were asked for."""
    return sides.rows(key(view))


def shows_own(view: View) -> bool:
    """Whether the view is of the adapter's own update."""
    return view.one("update") == "own" and lookups.alignment(key(view)).is_adapter


def chosen_spectra(view: View) -> list[tuple[str, Spectrum]]:
    """Those that the view lays over each other: matrices of its own, one matrix over the layers, or over models."""
    pair = Pair(view.base, view.tuned[0])
    return list(comparing_spectra.drawn(view, pair, measured_spectra(view), own=shows_own(view)))


def layer_profiles(view: View) -> Figure:
    metric = CATALOG[view.one("metric")]
    return curves.layer_profiles(lookups.profile(key(view), metric.key, own=shows_own(view)), metric)


def profile_rows(view: View) -> Rows:
    metric = view.one("metric")
    curves_of = lookups.profile(key(view), metric, own=shows_own(view))
    rows = tables.curve_rows(curves_of, "layer", metric, "module")
    return [row | {"layer": int(float(str(row["layer"])))} for row in rows]


def chosen_values(view: View) -> Figure:
    chosen = chosen_spectra(view)
    with_noise = comparing_spectra.has_noise(view, chosen)
    return spectra.singular_values(chosen, with_noise=with_noise, in_order=view.one("over") == "layers")


def chosen_energy(view: View) -> Figure:
    curves_of_energy = [rollup.energy_curve(found, label) for label, found in chosen_spectra(view)]
    return spectra.energy(curves_of_energy, in_order=view.one("over") == "layers")


def gap_rows(view: View) -> Rows:
    gaps = lookups.gaps(key(view)).items()
    return [{"tensor": name, "measurement": kind, "reason": reason} for (kind, name), reason in gaps]


# The overlap


def pairs(view: View) -> tuple[Pair, ...]:
    return tuple(Pair(view.base, model) for model in view.tuned)


def labels(view: View) -> tuple[str, ...]:
    return short_titles([model.title for model in view.tuned], [model.short_commit for model in view.tuned])


def overlap(view: View) -> Venn:
    """Raises NotStored where nothing is counted."""
    found = runs.venn(pairs(view), labels(view), view.mask_rule)
    if not found.tensors:
        raise NotStored("The overlap of these models is not counted", do="Open its page and count it")
    return found


def overlap_drawn(view: View) -> Figure:
    """As circles where the view wants them and there is room, else as bars."""
    found = overlap(view)
    in_circles = len(view.tuned) <= venn.MOST_CIRCLES and view.one("drawn") == "circles"
    return venn.circle_diagram(found) if in_circles else upset.upset(found)


def overlap_grid(view: View) -> rollup.Grid:
    of, other = int(view.one("of")), int(view.one("in"))
    if max(of, other) >= len(view.tuned):
        raise BadReference("The link compares a model with one that it does not name")
    return runs.overlap_by_place(pairs(view), view.one("measure"), view.mask_rule, of, other)


def regions(view: View) -> Rows:
    keys = tuple(model.key for model in view.tuned)
    return tables.tensor_region_rows(
        labels(view), handles.store().overlaps.regions(view.base.key, keys, view.mask_rule)
    )


def agreement_grid(view: View) -> rollup.Grid:
    n_runs = min(int(view.one("runs")), len(view.tuned))
    return runs.agreement_by_place(pairs(view), view.one("agree"), view.mask_rule, n_runs)
