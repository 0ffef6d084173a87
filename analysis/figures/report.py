"""A pair as one HTML file that opens anywhere, without a network: numbers, words, figures that can be pointed at, and
where all of it comes from.

Whatever a model or a tensor is called is escaped. The file's own policy forbids it to ask anything of anyone.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plotly.offline import get_plotlyjs

from analysis import rollup
from analysis.alerts import alerts
from analysis.figures import curves, spectra
from analysis.figures.heatmap import heatmap
from analysis.figures.theme import Figure
from analysis.labels import count, percent, scientific, share, visible
from analysis.measurements import Spectrum, Tally
from analysis.metrics import CATALOG
from analysis.models import Pair
from analysis.provenance import flat
from analysis.rollup import Headline
from analysis.summary import summarize
from analysis.tables import Row, match_rows, not_compared_rows, rule_rows, tensor_rows
from analysis.tensors import Alignment

MOST_SPECTRA = 4
MOST_ROWS = 20_000  # of a table; the data file has all
_PROFILES = ("unchanged-exact", "relative-update", "effective-rank")
_Section = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Measured:
    """A pair with everything that is measured of it, as the store hands it out."""

    pair: Pair
    alignment: Alignment
    tallies: Mapping[str, Tally]
    spectra: Mapping[str, Spectrum]
    gaps: Mapping[tuple[str, str], str]
    spectra_planned: bool = True


def report(of: Measured, provenance: Mapping[str, Any], citation: str, bibtex: str) -> str:
    """The whole file."""
    found = rollup.headline(of.alignment, of.tallies, of.spectra, spectra_planned=of.spectra_planned)
    figures = dict(_figures(of)) if found.entries else {}
    title = f"{of.pair.tuned.title} against {of.pair.base.title}"
    sections: list[_Section] = [
        ("", _heading(of.pair)),
        ("", _alerts(of, found)),
        ("", _headline(found, of.alignment)),
        ("In words", "".join(f"<p>{_text(sentence)}</p>" for sentence in summarize(found, of.alignment))),
        ("By rule", _table(rule_rows(found)) if found.entries and not found.withheld else ""),
        *((name, f'<div class="plot" id="plot-{i}"></div>') for i, name in enumerate(figures)),
        ("How tensors were matched", _table(match_rows(of.alignment))),
        ("Every tensor", _folded(tensor_rows(of.alignment, of.tallies, of.spectra), "tensors")),
        ("Not compared", _folded(not_compared_rows(of.alignment.not_compared), "tensors")),
        ("Not measured", _table(_gap_rows(of.gaps))),
        ("How to cite", f"<p>{_text(citation)}</p><pre>{_text(bibtex)}</pre>"),
        ("Where these numbers come from", _provenance(provenance)),
    ]
    body = "".join(
        f"<section>{f'<h2>{_text(name)}</h2>' if name else ''}{part}</section>" for name, part in sections if part
    )
    return _PAGE.format(
        title=_text(title),
        body=body,
        data=_script_data([_plain(figure) for figure in figures.values()]),
        provenance=_script_data(provenance),
        plotly=get_plotlyjs(),
    )


def _figures(of: Measured) -> Iterable[tuple[str, Figure]]:
    everything = rollup.tolerance_curve(of.tallies.values(), "all compared parameters")
    yield "Unchanged share over tolerance", curves.sparsity_over_tolerance([everything])
    failed = [name for kind, name in of.gaps if kind == "tally"]
    grid = rollup.grid(of.alignment, CATALOG["unchanged-exact"], of.tallies, of.spectra, failed)
    if grid.modules:
        yield "Unchanged share by layer and matrix, exact", heatmap(grid)
    for key in _PROFILES:
        metric = CATALOG[key]
        profile = rollup.layer_profile(of.alignment, metric, of.tallies, of.spectra)
        if any(len(curve.x) for curve in profile):
            yield f"{metric.title} over layers", curves.layer_profiles(profile, metric)
    chosen = _middle(of)
    if chosen:
        yield "Singular values, some of the middle layer", spectra.singular_values(chosen, with_noise=True)
        energy = [rollup.energy_curve(spectrum, name) for name, spectrum in chosen]
        yield "Energy in the leading directions", spectra.energy(energy)


def _middle(of: Measured) -> list[tuple[str, Spectrum]]:
    """Up to four spectra of the middle layer that has any."""
    known = [pair for pair in of.alignment.pairs if pair.name in of.spectra and not of.spectra[pair.name].reason]
    known_layers = sorted({pair.place.layer for pair in known if pair.place.layer is not None})
    middle = known_layers[len(known_layers) // 2] if known_layers else None
    return [(pair.name, of.spectra[pair.name]) for pair in known if pair.place.layer == middle][:MOST_SPECTRA]


def _heading(pair: Pair) -> str:
    models = (
        f"<p>{side}: <strong>{_text(model.title)}</strong> <code>{_text(model.commit)}</code></p>"
        for side, model in (("Tuned", pair.tuned), ("Base", pair.base))
    )
    return f"<h1>What fine-tuning changed</h1>{''.join(models)}"


def _alerts(of: Measured, found: Headline) -> str:
    return "".join(f'<p class="alert">{_text(one.sentence)}</p>' for one in alerts(found, of.alignment, of.tallies))


def _headline(found: Headline, alignment: Alignment) -> str:
    """The numbers with what stands behind them; where too little was compared, the reasons in their place."""
    of_tuned = percent(alignment.compared_of("tuned"), alignment.tuned_parameters, 2)
    tensors = f"{count(found.tensors_measured)} of {count(found.tensors_planned)} tensors measured"
    coverage = (
        "Compared",
        percent(alignment.compared_of("base"), alignment.base_parameters, 2),
        f"of the base, {of_tuned} of the tuned; {tensors}",
    )
    if found.withheld or not found.entries:
        reasons = " ".join(found.reasons_withheld) or "Nothing is measured yet."
        return f'<p class="alert"><strong>No headline.</strong> {_text(reasons)}</p>' + _numbers([coverage])
    rules = (
        ("Unchanged, exact", "exact"),
        ("Unchanged, Mukherjee's rule", "mukherjee"),
        ("Unchanged, bf16 rule", "bf16"),
    )
    shares = [(title, found.unchanged[rule]) for title, rule in rules]
    numbers = [
        (title, percent(one.part, one.whole), f"{count(one.part)} of {count(one.whole)}") for title, one in shares
    ]
    matrices = f"{count(found.spectra_measured)} of {count(found.spectra_planned)} matrices"
    effective = f"effective rank {share(found.mean_effective_rank_share)}; {matrices}"
    numbers += [
        ("Size of the update", scientific(found.relative_update), "‖update‖ / ‖base‖"),
        ("Rank of the updates", share(found.mean_rank_share), effective),
        coverage,
    ]
    return _numbers(numbers)


def _numbers(numbers: Sequence[tuple[str, str, str]]) -> str:
    boxes = (
        f"<div><span>{_text(name)}</span><b>{_text(value)}</b><span>{_text(below)}</span></div>"
        for name, value, below in numbers
    )
    return f'<div class="numbers">{"".join(boxes)}</div>'


def _gap_rows(gaps: Mapping[tuple[str, str], str]) -> list[Row]:
    return [{"tensor": name, "measurement": kind, "reason": reason} for (kind, name), reason in gaps.items()]


def _folded(rows: Sequence[Row], what: str) -> str:
    return f"<details><summary>{count(len(rows))} {what}</summary>{_table(rows)}</details>" if rows else ""


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{_text(name.replace('_', ' '))}</th>" for name in rows[0])
    lines = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows[:MOST_ROWS])
    more = f"<p>The first {count(MOST_ROWS)} of {count(len(rows))}.</p>" if len(rows) > MOST_ROWS else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>{more}'


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "<td></td>"
    if isinstance(value, int):
        return f'<td class="n">{count(value)}</td>'
    return f'<td class="n">{scientific(value, 5)}</td>' if isinstance(value, float) else f"<td>{_text(str(value))}</td>"


def _provenance(provenance: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{_text(n)}</td><td>{_text(t)}</td></tr>" for n, t in flat(provenance).items())
    return f"<details><summary>Models, commits, versions, coverage</summary><table>{rows}</table></details>"


def _text(text: str) -> str:
    return html.escape(visible(text).replace("\\u000a", "\n"))


def _plain(figure: Figure) -> dict[str, Any]:
    return dict(json.loads(figure.to_json()))


def _script_data(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="robots" content="noindex"><meta name="generator" content="Subnetscope">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --faint: rgba(128,128,128,.35) }}
body {{ font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; max-width: 1080px; margin: 2rem auto;
  padding: 0 1.25rem; color: light-dark(#22262b, #e4e6e8); background: light-dark(#fff, #14171a) }}
h1 {{ font-size: 1.7rem; margin: 0 0 .6rem }} h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .6rem }}
p {{ margin: .35rem 0 }}
code, pre {{ font-size: .82rem }} pre {{ overflow-x: auto; padding: .8rem; border: 1px solid var(--faint) }}
.numbers {{ display: flex; flex-wrap: wrap; gap: 1.4rem 2.2rem; margin-top: 1.2rem }}
.numbers div {{ max-width: 15rem }} .numbers span {{ display: block; font-size: .82rem; opacity: .75 }}
.numbers b {{ font-size: 1.5rem; font-weight: 500; font-variant-numeric: tabular-nums }}
.alert {{ border-left: 3px solid #d55e00; padding: .3rem .8rem }}
.wide {{ overflow-x: auto; max-height: 32rem }} table {{ border-collapse: collapse; font-size: .85rem }}
td, th {{ text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--faint); white-space: nowrap }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
@media print {{ details {{ display: none }} }}
</style></head><body>{body}
<script type="application/json" id="provenance">{provenance}</script>
<script type="application/json" id="figures">{data}</script>
<script>{plotly}</script>
<script>
const figures = JSON.parse(document.getElementById("figures").textContent);
const ink = getComputedStyle(document.body).color;
const config = {{ responsive: true, displaylogo: false, modeBarButtons: [["toImage"]],
  toImageButtonOptions: {{ format: "svg", filename: "subnetscope" }} }};
figures.forEach((figure, i) => {{
  figure.layout.font = {{ color: ink }};
  Plotly.newPlot("plot-" + i, figure.data, figure.layout, config);
}});
</script></body></html>
"""
