"""Venn -> Figure: every run against every other as a matrix."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme
from analysis.figures.ink import inked
from analysis.labels import count, letter, scientific, share
from analysis.overlaps import Venn

MOST_WITH_CHANCES = 4  # runs whose cells have room for the chance levels
_LEAST_SPAN = 2.0  # times chance: colours span 1 to this at least, or 1.01 and 1.02 would look far apart


def pair_matrix(venn: Venn, measure: str = "one-sided") -> go.Figure:
    """Every model against every other: of what the row's model changed, the share that the column's changed too.

    `measure` is 'one-sided', 'jaccard', or 'matched' for the overlap over magnitude-matched chance; the two last are
    the same both ways. Under each one-sided overlap of a few models stand both chance levels. Rows carry names and
    letters, columns their letters: names would print over each other in a narrow figure.
    """
    k = venn.n_models
    value = {"one-sided": venn.one_sided, "jaccard": venn.jaccard, "matched": venn.over_matched}[measure]
    table = np.array([[value(i, j) if i != j else np.nan for j in range(k)] for i in range(k)])
    rows = [f"{theme.tick(label, 28)} <b>{letter(i)}</b>" for i, label in enumerate(venn.labels)]
    columns = [f"<b>{letter(i)}</b>" for i in range(k)]
    known = _logarithms(np.append(table, [1, _LEAST_SPAN]))
    colours = theme.plain_colours(known) if measure == "matched" else theme.share_colours()
    drawn = theme.figure(
        height=90 + k * (74 if k <= MOST_WITH_CHANCES else 38),
        coloraxis=colours | {"showscale": False},
        xaxis=theme.bare_axis(
            tickvals=list(range(k)), ticktext=columns, side="top", range=[-0.5, k - 0.5], tickangle=0
        ),
        yaxis=theme.bare_axis(tickvals=list(range(k)), ticktext=rows, range=[k - 0.5, -0.5]),
    )
    values = _logarithms(table) if measure == "matched" else table
    texts = [[_text(venn, i, j, measure) if i != j else "" for j in range(k)] for i in range(k)]
    drawn.add_trace(
        go.Heatmap(
            z=values,
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
            hoverongaps=False,
            text=inked(texts, values, colours),
            texttemplate="%{text}",
            textfont={"size": 12 if k <= 8 else 10},
            customdata=[[_hover(venn, i, j) if i != j else "" for j in range(k)] for i in range(k)],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    return drawn


def _logarithms(table: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log10(np.where(table > 0, table, np.nan))


def _text(venn: Venn, one: int, other: int, measure: str) -> str:
    if measure == "matched":
        return f"<b>{scientific(venn.over_matched(one, other))}</b>"
    digits = 2 if venn.n_models <= 8 else 1
    if measure == "jaccard":
        return f"<b>{share(venn.jaccard(one, other), digits)}</b>"
    bold = f"<b>{share(venn.one_sided(one, other), digits)}</b>"
    if venn.n_models > MOST_WITH_CHANCES:
        return bold
    chances = venn.chance(one, other), venn.matched_chance(one, other)
    return f"{bold}<br>chance {share(chances[0])}<br>matched {share(chances[1])}"


def _hover(venn: Venn, one: int, other: int) -> str:
    names = theme.full(venn.labels[one]), theme.full(venn.labels[other])
    return (
        f"of what {names[0]} changed, {names[1]} changed <b>{share(venn.one_sided(one, other), 4)}</b> too<br>"
        f"by chance {share(venn.chance(one, other), 4)}, "
        f"by magnitude-matched chance {share(venn.matched_chance(one, other), 4)}<br>"
        f"{count(venn.changed(one, other))} entries changed by both, Jaccard index {share(venn.jaccard(one, other), 4)}"
    )
