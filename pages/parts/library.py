"""The library's own parts: the table of all comparisons, what the team writes in it, and those ticked side by side.

The address holds the filters and the ticks, the store what was written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import streamlit as st

from analysis.algorithms import Kind, kind_of
from analysis.errors import BadReference, SubnetscopeError
from analysis.figures import curves
from analysis.figures.heatmap import heatmap
from analysis.figures.theme import Figure
from analysis.labels import rough_count, short_titles
from analysis.links import view_of
from analysis.metrics import CATALOG
from analysis.published import published
from analysis.rollup import Curve
from analysis.tables import Row
from cache.records import LibraryEntry as Entry
from cache.records import Notes, PairNumbers, StoredPair
from pages.parts import address, charts, handles, lookups, panels, runs
from pages.parts.text import plain, safe_label

MOST_OVERLAID, MOST_HEATMAPS = 12, 4
_LONGEST_FILTER = 200
_NAME, _BASE_NAME = 30, 22  # characters of models' names in the table; files and links have all of them
_WRITTEN = ("algorithm", "data", "tags", "note")
_METRICS = tuple(CATALOG)
_TABLE, _VERSION = "library.table", "library.version"


def entries() -> list[Entry]:
    """Every comparison that was begun, the last active first."""
    store = handles.store()
    amounts, notes = store.numbers(), store.notes()
    return [
        Entry(known, amounts.get(known.pair.key), _notes(known, notes), _published(known))
        for known in runs.begun(lookups.pairs())
    ]


def _notes(known: StoredPair, written: Mapping[str, Notes]) -> Notes:
    """What was written; the algorithm that a paper names, until somebody writes another."""
    return written.get(known.pair.key) or Notes(algorithm=_claimed(known, lambda pair: pair.algorithm))


def _published(known: StoredPair) -> str:
    return _claimed(known, lambda pair: ", ".join(str(claim.percent) for claim in pair.claims_of("unchanged")))


def _claimed(known: StoredPair, words: Callable[[Any], str]) -> str:
    pairs = (pair for pair in published().pairs if pair.is_of(known.pair.base, known.pair.tuned))
    return next(map(words, pairs), "")


def filtered(all_of_them: Sequence[Entry]) -> list[Entry]:
    """The comparisons that the filters let through, with the filters above them."""
    words, base, tag = st.columns([4, 4, 3])
    _filter(words, "q", lambda at, key, _: at.text_input("Search", key=key, on_change=_chose, args=("q", key)))
    bases = sorted({entry.known.pair.base.title for entry in all_of_them})
    _filter(base, "of", lambda at, key, v: _one(at, "Base", key, "of", bases, v))
    tags = sorted({tag for entry in all_of_them for tag in (*entry.notes.tags, entry.notes.algorithm) if tag})
    _filter(tag, "tag", lambda at, key, v: _one(at, "Tag or algorithm", key, "tag", tags, v))
    return matching(all_of_them, address.query())


def matching(all_of_them: Sequence[Entry], query: Mapping[str, Sequence[str]]) -> list[Entry]:
    """The comparisons that a query's filters let through: words to search for, a base, a tag or algorithm."""
    text, of, tagged = ("".join(query.get(name, ()))[:_LONGEST_FILTER] for name in ("q", "of", "tag"))
    return [
        entry
        for entry in all_of_them
        if all(word in entry.text for word in text.lower().split())
        and of in ("", entry.known.pair.base.title)
        and tagged in ("", entry.notes.algorithm, *entry.notes.tags)
    ]


def _filter(at: Any, name: str, widget: Callable[[Any, str, str], object]) -> None:
    value, key = _named(name), f"library.{name}"
    if st.session_state.get(key) != (value or (None if name != "q" else "")):
        st.session_state[key] = value or (None if name != "q" else "")
    widget(at, key, value)


def _one(at: Any, title: str, key: str, name: str, options: list[str], value: str) -> None:
    known = [*options, *([value] if value and value not in options else [])]
    at.selectbox(
        title, known, index=None, key=key, placeholder="any", format_func=plain, on_change=_chose, args=(name, key)
    )


def _named(name: str) -> str:
    return "".join(address.query().get(name, ()))[:_LONGEST_FILTER]


def picks() -> tuple[str, ...]:
    """Keys of the comparisons that are ticked."""
    return tuple(address.query().get("pick", ()))[:MOST_OVERLAID]


def _chose(name: str, key: str) -> None:
    _put(name, [st.session_state[key]] if st.session_state[key] else [])


def _put(name: str, values: Sequence[str]) -> None:
    query = {key: list(value) for key, value in address.query().items() if key != name}
    address.put(query | ({name: list(values)} if values else {}))


def in_order(known: Sequence[Entry], keys: Sequence[str]) -> list[Entry]:
    """Of the known comparisons those of these keys, in the keys' order."""
    entry_of_key = {entry.key: entry for entry in known}
    return [entry_of_key[key] for key in dict.fromkeys(keys) if key in entry_of_key]


def presets(shown: Sequence[Entry]) -> None:
    """Ticks to begin with: SFT against RL, everything, nothing."""
    of_kind: dict[Kind, list[str]] = {"RL": [], "SFT": []}
    for entry in shown:
        of_kind.setdefault(kind_of(entry.notes.algorithm), []).append(entry.key)
    buttons = st.container(horizontal=True)
    in_turn = zip_longest(of_kind["SFT"], of_kind["RL"])  # so that the first few are of both kinds
    against = [key for both in in_turn for key in both if key]
    buttons.button(
        "SFT against RL",
        disabled=not (of_kind["SFT"] and of_kind["RL"]),
        help="Ticks the comparisons below whose algorithm is supervised finetuning (SFT), or reinforcement learning or "
        "preference optimization (GRPO, PPO, DPO and the like), in turn.",
        on_click=_tick,
        args=(against,),
    )
    everything = [entry.key for entry in shown]
    buttons.button("Tick all", disabled=len(everything) > MOST_OVERLAID, on_click=_tick, args=(everything,))
    buttons.button("Tick none", disabled=not picks(), on_click=_tick, args=([],))


def _tick(keys: Sequence[str]) -> None:
    st.session_state[_VERSION] = st.session_state.get(_VERSION, 0) + 1  # the table forgets what was ticked in it
    _put("pick", list(keys)[:MOST_OVERLAID])


def table(shown: Sequence[Entry]) -> None:
    """The comparisons; ticks go to the address, what is written to the store."""
    keys = tuple(entry.key for entry in shown)
    key = f"{_TABLE}.{st.session_state.get(_VERSION, 0)}.{hash(keys)}"
    tags = sorted({tag for entry in shown for tag in entry.notes.tags})
    if not shown:
        st.info("No comparison matches the filters.")
        return
    ticked = picks()
    st.data_editor(
        [{"✓": entry.key in ticked} | row(entry) for entry in shown],
        key=key,
        hide_index=True,
        placeholder="–",
        disabled=[name for name in row(shown[0]) if name not in _WRITTEN],
        column_config=_columns(tags),
        on_change=_edited,
        args=(key, keys, {entry.key: entry.notes for entry in shown}),
    )


def row(entry: Entry) -> Row:
    """One line of the table; shares in percent."""
    known, amounts, notes = entry.known, entry.amounts, entry.notes
    return {
        "tuned": plain(known.pair.tuned.title, _NAME),
        "base": plain(known.pair.base.title, _BASE_NAME),
        "algorithm": notes.algorithm,
        "unchanged, exact": _percent(amounts, lambda a: (a.exact, a.entries)),
        "Mukherjee's rule": _percent(amounts, lambda a: (a.mukherjee, a.entries)),
        "bf16 rule": _percent(amounts, lambda a: (a.bf16, a.entries)),
        "rank": _percent(amounts, lambda a: (a.mean_rank_share, 1)),
        "‖update‖ / ‖base‖": _relative(amounts),
        "measured": lookups.measured_share(known),
        "published": entry.published,
        "data": notes.data,
        "tags": list(notes.tags),
        "note": notes.note,
        "compared": _percent(amounts, lambda a: (a.compared_parameters, a.base_parameters)),
        "dtype": " → ".join(dict.fromkeys((known.base.dtype, known.tuned.dtype))),
        "parameters": rough_count(known.entries),
        "tuned commit": known.pair.tuned.short_commit,
        "base commit": known.pair.base.short_commit,
        "last measured": known.last_activity,
    }


def _percent(amounts: PairNumbers | None, parts: Callable[[PairNumbers], tuple[float, float]]) -> float | None:
    if amounts is None:
        return None
    part, whole = parts(amounts)
    return 100 * part / whole if whole and not math.isnan(part) else None


def _relative(amounts: PairNumbers | None) -> float | None:
    if amounts is None or not amounts.base_square_sum:
        return None
    return math.sqrt(amounts.update_square_sum / amounts.base_square_sum)


def _columns(tags: list[str]) -> dict[str, Any]:
    column = st.column_config
    return {
        "✓": column.CheckboxColumn(width=40, pinned=True),
        "tuned": column.TextColumn(width=198, pinned=True),
        "base": column.TextColumn(width=150),
        "algorithm": column.TextColumn(max_chars=60, width=100),
        "unchanged, exact": column.NumberColumn(format="%.4f %%", width=118),
        "Mukherjee's rule": column.NumberColumn(format="%.4f %%", width=115, help="Unchanged by Mukherjee's rule."),
        "bf16 rule": column.NumberColumn(format="%.4f %%", width=85, help="Unchanged by the bf16 rule."),
        "rank": column.NumberColumn("mean rank", format="%.2f %%", width=80),
        "‖update‖ / ‖base‖": column.NumberColumn("update / base", format="%.2e", width=90, help="‖update‖ / ‖base‖"),
        "measured": column.ProgressColumn(format="percent", min_value=0, max_value=1, width=105),
        "published": column.TextColumn("published (%)", width=90),
        "data": column.TextColumn(max_chars=120, width=90),
        "tags": column.MultiselectColumn(options=tags, accept_new_options=True, width=110),
        "note": column.TextColumn(max_chars=500, width=220),
        "compared": column.NumberColumn(format="%.2f %%", width=85),
        "last measured": column.DatetimeColumn("last measured (UTC)", format="YYYY-MM-DD HH:mm"),
    }


def _edited(key: str, keys: Sequence[str], notes_of_key: Mapping[str, Notes]) -> None:
    """What was just changed in the table. It repeats earlier changes too, which changes nothing again."""
    ticked = list(picks())
    for position, changes in st.session_state[key]["edited_rows"].items():
        pair_key = keys[int(position)]
        if "✓" in changes:
            ticked = [one for one in ticked if one != pair_key] + ([pair_key] if changes["✓"] else [])
        written = {name: changes[name] for name in _WRITTEN if name in changes}
        if written:
            _write(pair_key, notes_of_key[pair_key], written)
    _put("pick", ticked[-MOST_OVERLAID:])


def _write(pair_key: str, before: Notes, written: Mapping[str, Any]) -> None:
    texts = {name: str(value or "").strip()[:500] for name, value in written.items() if name != "tags"}
    tags = tuple(str(tag).strip()[:40] for tag in written.get("tags") or ()) if "tags" in written else before.tags
    try:
        handles.store().annotate(pair_key, replace(before, **texts, tags=tuple(filter(None, tags))[:20])).result()
    except SubnetscopeError as error:
        panels.failure(error)


def ways_on(picked: Sequence[Entry]) -> None:
    """From the ticked comparisons to their own pages, and to the overlap of those of one base."""
    families: dict[Any, list[Any]] = {}
    for entry in picked:
        families.setdefault(entry.known.pair.base, []).append(entry.known.pair.tuned)
    row_of_links = st.container(horizontal=True)
    with row_of_links:
        for base, tuned in families.items():
            if len(tuned) > 1:
                label = f"Overlap of {len(tuned)} models tuned from {safe_label(base.title, 50)}"
                address.link(label, view_of("overlap", base, *tuned))
        for entry in picked:
            pair = entry.known.pair
            whole = safe_label(f"{pair.tuned.title} against {pair.base.title}", 400)
            address.link(f"Open {safe_label(pair.tuned.title, 50)}", view_of("pair", pair.base, pair.tuned), help=whole)


def overlay(picked: Sequence[Entry]) -> None:
    """The ticked comparisons in one picture: over tolerance, over layers, and as heatmaps of one scale."""
    st.subheader("Sparsity over tolerance", anchor=False)
    charts.show(_over_tolerance(picked), "Unchanged share over tolerance, one line a comparison")
    st.subheader("Layer by layer", anchor=False)
    chosen = _metric()
    st.caption(CATALOG[chosen].help)
    charts.show(_by_layer(picked, chosen), f"{CATALOG[chosen].title} by layer")
    for entry, label in list(zip(picked, _labels(picked), strict=True))[:MOST_HEATMAPS]:
        st.caption(safe_label(label, 100))
        charts.show(heatmap(lookups.grid(entry.key, chosen, "1e-05")), f"{CATALOG[chosen].title} of {plain(label)}")
    if len(picked) > MOST_HEATMAPS:
        st.caption(f"Heatmaps of the first {MOST_HEATMAPS} of {len(picked)}.")


def over_tolerance(query: Mapping[str, Sequence[str]]) -> Figure:
    """The lines of the comparisons that a query ticks. Raises BadReference where it ticks none."""
    return _over_tolerance(_ticked(query))


def by_layer(query: Mapping[str, Sequence[str]]) -> Figure:
    """The chosen metric over layers, of the comparisons that a query ticks. Raises BadReference where it ticks none."""
    named = "".join(query.get("metric", ()))
    return _by_layer(_ticked(query), named if named in _METRICS else "unchanged-exact")


def _ticked(query: Mapping[str, Sequence[str]]) -> list[Entry]:
    found = in_order(entries(), query.get("pick", ())[:MOST_OVERLAID])
    if not found:
        raise BadReference("No comparison is ticked", do="Tick one on the page of all comparisons")
    return found


def _over_tolerance(picked: Sequence[Entry]) -> Figure:
    lines = zip(picked, _labels(picked), strict=True)
    over = [replace(lookups.tolerance_curve(entry.key), label=label) for entry, label in lines]
    return curves.sparsity_over_tolerance(over)


def _by_layer(picked: Sequence[Entry], metric: str) -> Figure:
    lines = zip(picked, _labels(picked), strict=True)
    totals = [Curve(label, *lookups.layer_totals(entry.key, metric)) for entry, label in lines]
    return curves.layer_profiles(totals, CATALOG[metric])


def _labels(picked: Sequence[Entry]) -> tuple[str, ...]:
    tuned = [entry.known.pair.tuned for entry in picked]
    return short_titles([model.title for model in tuned], [model.short_commit for model in tuned])


def _metric() -> str:
    named = _named("metric")
    chosen = named if named in _METRICS else "unchanged-exact"
    key = "library.metric"
    if st.session_state.get(key) != chosen:
        st.session_state[key] = chosen
    st.selectbox(
        "Metric", _METRICS, key=key, format_func=lambda k: CATALOG[k].title, on_change=_chose, args=("metric", key)
    )
    return chosen


def file_rows(shown: Sequence[Entry]) -> list[Row]:
    """The table as a file has it: whole names and commits."""
    return [
        row(entry)
        | {"tags": ", ".join(entry.notes.tags), "pair": entry.key}
        | {"tuned": entry.known.pair.tuned.title, "base": entry.known.pair.base.title}
        | {"tuned commit": entry.known.pair.tuned.commit, "base commit": entry.known.pair.base.commit}
        for entry in shown
    ]
