"""Pages over a real store: what they show, what they write into the address, and what they say when something is
missing. Charts are drawn in tests/browser."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from analysis import rollup
from analysis.labels import count, percent, share
from analysis.links import View, to_query, view_of
from analysis.measurements import Gap, Preview
from analysis.models import Pair
from analysis.plan import Plan
from analysis.tensors import NotCompared
from cache.records import JobRecord
from pages.parts import lookups, sources, take
from tests.analysis.by_hand import measured, small_model, tally_of
from tests.pages.conftest import BASE, HOSTILE_NAME, SEEDS, put_pair, register

ROUTER = str(Path(__file__).resolve().parents[2] / "pages" / "_router.py")
TIMEOUT = 30


def opened(view: View | None = None, page: str = "compare", **query: list[str]) -> AppTest:
    """The page of a view after its first run."""
    app = AppTest.from_file(ROUTER, default_timeout=TIMEOUT)
    app.run()
    app.switch_page(f"{view.page if view else page}.py")
    for name, values in (to_query(view) if view else query).items():
        app.query_params[name] = values
    return app.run()


def with_menu(app: AppTest) -> AppTest:
    """The page with the menu at its end opened."""
    app.session_state[take.OPEN] = True
    return app.run()


def texts(app: AppTest) -> str:
    """All running text of the page."""
    kinds = ("header", "subheader", "markdown", "caption", "info", "error", "warning", "success")
    return "\n".join(element.value for kind in kinds for element in app.get(kind))


def query(app: AppTest) -> dict[str, list[str]]:
    values = {name: app.query_params[name] for name in app.query_params}
    return {name: [value] if isinstance(value, str) else list(value) for name, value in values.items()}


@pytest.mark.parametrize("page", ["pair", "layers", "spectra"])
def test_every_view_of_a_measured_pair_draws_without_complaint(pair: Pair, page: str):
    app = opened(view_of(page, pair.base, pair.tuned))
    assert not app.exception
    assert not app.error
    assert f"`{pair.tuned.short_commit}`" in texts(app)


def test_overview_shows_the_headline_with_its_counts(pair: Pair):
    app = opened(view_of("pair", pair.base, pair.tuned))
    alignment = small_model()
    exact = rollup.headline(alignment, *measured(alignment), spectra_planned=True).unchanged["exact"]
    assert app.metric[0].value == percent(exact.part, exact.whole)
    assert f"{count(exact.part)} of {count(exact.whole)}" in texts(app)
    mean = float(np.mean([tally.unchanged("mukherjee") / tally.entries for tally in measured(alignment)[0].values()]))
    assert f"mean over tensors {share(mean)}" in texts(app), "not only in what one has to hover for"


def test_overview_gives_reasons_where_too_little_was_compared(current):
    alignment = small_model(1)
    missing = NotCompared("model.vision.weight", "tuned", "only the tuned model has it", 9000)
    pair = put_pair(
        current,
        Pair(BASE, SEEDS[0]),
        dataclasses.replace(
            alignment, not_compared=(missing,), tuned_parameters=alignment.compared_parameters + missing.parameters
        ),
    )
    shown = opened(view_of("pair", pair.base, pair.tuned))
    [warning] = [element.value for element in shown.warning]
    assert "1 tensor, 9,000 parameters: only the tuned model has it" in warning
    assert "a headline needs 90 %" in warning
    assert [metric.label for metric in shown.metric] == ["Compared"]


def test_overview_says_that_two_models_are_not_related(current):
    alignment = small_model()
    pair = Pair(BASE, SEEDS[0])
    register(current, pair, alignment)
    random = np.random.default_rng(0)
    for entry in alignment.pairs:
        before, after = random.normal(0, 0.02, (2, *entry.shape)).astype(np.float32)
        current.store.put(pair.key, entry.name, tally_of(before, after)).result()
    shown = opened(view_of("pair", pair.base, pair.tuned))
    assert any("do not come from one another" in element.value for element in shown.error)


def test_the_address_is_completed_with_every_default(pair: Pair):
    app = opened(page="layers", base=[str(pair.base)], tuned=[str(pair.tuned)])
    assert query(app) == to_query(view_of("layers", pair.base, pair.tuned))


def test_a_choice_is_written_into_the_address(pair: Pair):
    app = opened(view_of("layers", pair.base, pair.tuned))
    app.selectbox(key="layers.metric").select("relative-update").run()
    assert query(app)["metric"] == ["relative-update"]


def test_the_address_decides_what_a_widget_shows(pair: Pair):
    app = opened(view_of("layers", pair.base, pair.tuned, metric="rank"))
    assert app.selectbox(key="layers.metric").value == "rank"


def test_the_link_to_copy_names_what_is_shown_also_where_the_page_chose_it(pair: Pair):
    app = opened(view_of("spectra", pair.base, pair.tuned))
    shown = app.multiselect(key="spectra.matrix").value
    assert shown
    assert query(app)["matrix"] == shown
    assert not app.code  # the menu is closed, and nothing of it is made
    assert all(f"matrix={name}" in with_menu(app).code[0].value for name in shown)


def test_matrix_page_shows_the_tensor_of_the_link_and_leads_to_its_neighbours(pair: Pair):
    name = "model.layers.1.mlp.down_proj.weight"
    app = opened(view_of("matrix", pair.base, pair.tuned, name=name))
    assert not app.exception
    app.selectbox(key="matrix.neighbour-layer").select("layer 2").run()
    assert query(app)["name"] == ["model.layers.2.mlp.down_proj.weight"]


RULES_CHOSEN = {
    "exact": ("unchanged-exact", "Unchanged, exact"),
    "bf16": ("unchanged-bf16", "Unchanged, bf16 rule"),
    "mukherjee": ("unchanged-mukherjee", "Unchanged, Mukherjee's rule"),
    "tolerance": ("unchanged-tolerance", "Unchanged, within 10⁻⁴"),
}


@pytest.mark.parametrize("rule", RULES_CHOSEN)
def test_the_rule_chosen_acts_on_overview_layers_and_matrix(pair: Pair, rule: str):
    metric, title = RULES_CHOSEN[rule]
    alignment, (tallies, _) = small_model(), measured(small_model())
    by_rule = lookups.metric_at(metric, "0.0001")
    whole = rollup.pooled(alignment, by_rule, tallies)
    choices = {"rule": rule, "tolerance": "0.0001"}

    overview = opened(view_of("pair", pair.base, pair.tuned, **choices))
    assert (overview.metric[0].label, overview.metric[0].value) == (title, percent(whole.part, whole.whole))
    labels = [metric.label for metric in overview.metric]
    assert {"Unchanged, exact", "Unchanged, Mukherjee's rule"} < set(labels)
    assert len(labels) == len(set(labels))

    layers = opened(view_of("layers", pair.base, pair.tuned, **choices))
    assert by_rule.help in texts(layers)

    name = "model.layers.1.mlp.down_proj.weight"
    matrix = opened(view_of("matrix", pair.base, pair.tuned, name=name, **choices))
    unchanged, entries = by_rule.parts(tallies[name], None)
    assert (matrix.metric[0].label, matrix.metric[0].value) == (title, percent(unchanged, entries))
    assert "counted under the exact rule" in texts(matrix)


def test_only_a_tolerance_has_a_slider_and_it_is_kept_by_the_sidebar(pair: Pair):
    choices = {"rule": "tolerance", "tolerance": "1e-07"}
    app = opened(view_of("pair", pair.base, pair.tuned, **choices))
    assert app.select_slider(key="pair.tolerance").value == "1e-07"
    app.select_slider(key="pair.tolerance").set_value("1e-06").run()
    assert query(app)["tolerance"] == ["1e-06"]
    links = [link.proto.query_string for link in app.sidebar.get("page_link")]
    assert sum("tolerance=1e-06" in link and "rule=tolerance" in link for link in links) == 3
    assert not opened(view_of("pair", pair.base, pair.tuned)).select_slider


def sidebar(app: AppTest) -> dict[str, str]:
    """The way between pages: label -> the query that it opens."""
    return {link.proto.label: link.proto.query_string for link in app.sidebar.get("page_link")}


def test_the_sidebar_has_the_same_entries_everywhere(two_runs):
    first, second = two_runs
    empty, jobs = sidebar(opened()), sidebar(opened(page="jobs"))
    layers = sidebar(opened(view_of("layers", first.base, first.tuned)))
    overlap = sidebar(opened(view_of("overlap", first.base, first.tuned, second.tuned)))
    assert list(empty) == list(jobs) == list(layers) == list(overlap)
    assert list(empty)[-4:] == ["Overview", "Layers", "Spectra", "Overlap of runs"]
    assert empty["Layers"] == "", "which asks for a comparison"
    assert f"tuned={SEEDS[0].name}" in layers["Overview"].replace("%2F", "/")


def test_a_comparison_stays_open_in_the_sidebar_of_pages_about_none(pair: Pair):
    app = opened(view_of("layers", pair.base, pair.tuned, rule="bf16"))
    app.switch_page("jobs.py")
    for name in list(app.query_params):
        del app.query_params[name]
    there = sidebar(app.run())
    assert "rule=bf16" in there["Overview"]
    assert f"Open: {pair.tuned.title} against {pair.base.title}".replace("/", r"\/").replace("-", r"\-") in texts(app)


def test_matrix_page_ranks_heads_and_neurons(pair: Pair):
    q_proj = opened(view_of("matrix", pair.base, pair.tuned, name="model.layers.1.self_attn.q_proj.weight"))
    assert "Parted by head: 4 query heads of 4 rows; each key-value head serves 2 query heads" in texts(q_proj)
    heads, rows = q_proj.dataframe[0].value, q_proj.dataframe[1].value
    assert sorted(heads["head"]) == [f"query head {i}" for i in range(4)]
    assert list(heads["changed share"]) == sorted(heads["changed share"], reverse=True)
    assert len(rows) == 16
    down = opened(view_of("matrix", pair.base, pair.tuned, name="model.layers.1.mlp.down_proj.weight"))
    assert next(iter(down.dataframe[1].value)) == "neuron"
    assert len(down.dataframe[1].value) == 20, "of 24 columns"


def test_layers_page_shows_heads_over_layers_where_they_are_known(current, pair: Pair):
    app = opened(view_of("layers", pair.base, pair.tuned))
    assert app.selectbox(key="layers.heads").options == ["self_attn.q_proj"]
    bare = dataclasses.replace(current.store.find_pair(pair.key).base, config={})
    current.store.register(pair, bare, bare, small_model()).result()
    assert "Attention heads" not in texts(opened(view_of("layers", pair.base, pair.tuned)))


def test_matrix_page_says_how_a_tensor_was_matched(current):
    alignment = small_model(1)
    pairs = tuple(dataclasses.replace(entry, match="renamed") for entry in alignment.pairs)
    pair = put_pair(current, Pair(BASE, SEEDS[0]), dataclasses.replace(alignment, pairs=pairs))
    name = "model.layers.0.self_attn.q_proj.weight"
    shown = texts(opened(view_of("matrix", pair.base, pair.tuned, name=name)))
    assert "same name but for a wrapper's prefix" in shown
    assert "How tensors were matched" in [box.label for box in opened(view_of("pair", pair.base, pair.tuned)).expander]


def test_a_vector_has_a_page_too(pair: Pair):
    app = opened(view_of("matrix", pair.base, pair.tuned, name="model.layers.0.input_layernorm.weight"))
    assert not app.exception
    assert "Along the vector" in texts(app)


def test_a_tensor_that_is_not_there_is_said_to_be_missing(pair: Pair):
    assert "no compared tensor of this name" in texts(opened(view_of("matrix", pair.base, pair.tuned, name="nope")))


def test_a_pair_that_was_never_compared_offers_to_compare_it(current):
    app = opened(view_of("pair", BASE, SEEDS[0]))
    assert "has not been compared on this server" in texts(app)
    assert [button.label for button in app.button] == ["Look it up and compare"]


def test_a_link_to_a_pair_that_was_never_compared_here_leads_to_compare_also_without_commits(current):
    app = opened(page="pair", base=["org/base"], tuned=["org/tuned"])
    assert "has not been compared on this server" in texts(app)
    app.button[0].click().run()
    assert [box.value for box in app.text_input] == ["org/base", "org/tuned"]


def test_a_link_without_commits_opens_what_was_measured_last_and_says_which(current, pair: Pair):
    newer = Pair(BASE, dataclasses.replace(pair.tuned, commit="f" * 40))
    put_pair(current, newer, small_model(), seed=3)
    app = opened(page="layers", base=[BASE.name], tuned=[pair.tuned.name], metric=["rank"])
    assert query(app) == to_query(view_of("layers", newer.base, newer.tuned, metric="rank"))
    assert "The link named no commits" in texts(app)
    assert "`fffffff`" in texts(app)
    older = opened(page="pair", base=[BASE.name], tuned=[f"{pair.tuned.name}@{pair.tuned.short_commit}"])
    assert query(older)["tuned"] == [str(pair.tuned)]
    assert "has not been compared" in texts(opened(page="pair", base=[BASE.name], tuned=[f"{pair.tuned.name}@step_9"]))


def test_a_link_without_commits_to_an_overlap_takes_models_of_one_base(two_runs):
    first, second = two_runs
    app = opened(page="overlap", base=[BASE.name], tuned=[second.tuned.name, first.tuned.name])
    assert query(app)["tuned"] == [str(second.tuned), str(first.tuned)]


def test_a_link_that_names_no_model_says_what_a_link_is(current):
    app = opened(page="pair", base=["base"], tuned=["org/tuned"])
    assert "is not a model id" in texts(app).replace("\\", "")


def test_a_page_without_a_pair_offers_the_stored_ones(pair: Pair):
    app = opened(page="layers")
    assert "Which comparison?" in texts(app)
    assert list(app.dataframe[0].value["tuned"]) == [pair.tuned.title]


def test_a_half_measured_pair_says_so_and_offers_the_rest(half_measured: Pair):
    app = opened(view_of("pair", half_measured.base, half_measured.tuned))
    assert "parameters measured so far" in texts(app)
    assert "1 measurement failed" in [box.label for box in app.expander]
    assert "Measure the rest" in [button.label for button in app.button]


def test_a_pair_that_failed_whole_gives_its_reasons_and_offers_to_try_again(current):
    alignment = small_model(1)
    pair = Pair(BASE, SEEDS[0])
    register(current, pair, alignment)
    for hole in Plan().wanted(alignment):
        current.store.put(pair.key, hole.name, Gap(hole.kind, "its file arrived damaged twice")).result()
    app = opened(view_of("pair", pair.base, pair.tuned))
    assert not app.exception
    [failed] = [box for box in app.expander if "failed" in box.label]
    assert set(failed.dataframe[0].value["reason"]) == {"its file arrived damaged twice"}
    assert "Try them again" in [button.label for button in app.button]


def test_a_failed_tensor_shows_its_reason_as_plain_text(half_measured: Pair):
    name = small_model().pairs[1].name
    app = opened(view_of("matrix", half_measured.base, half_measured.tuned, name=name))
    assert r"the file ends \*early\*" in texts(app)


def test_a_slip_of_the_pen_is_answered_with_how_to_write_it(current):
    app = opened(page="compare", base=["org/base"], tuned=["llama3"])
    assert "'llama3' is not a model id" in texts(app).replace("\\", "")
    assert "org/name@revision" in texts(app).replace("\\", "")


def test_compare_lists_what_is_stored(pair: Pair):
    app = opened()
    assert list(app.dataframe[0].value["base"]) == [pair.base.title]
    assert list(app.dataframe[0].value["measured"]) == [1.0]


def test_jobs_page_is_calm_where_nothing_happens(current):
    assert "Nothing is being measured now." in texts(opened(page="jobs"))


def test_jobs_that_ended_stand_by_their_end_the_last_first(current, pair: Pair):
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    request = json.dumps({"pairs": [[str(pair.base), str(pair.tuned)]]})
    for name, created, ended, planned in (("first", 60, 1, 20), ("second", 50, 49, 0)):
        times = [now - timedelta(minutes=minutes) for minutes in (created, created, ended)]
        current.store.ledger.put(
            JobRecord(name, "compare", request, "done", times[0], "", *times[1:], planned, planned)
        )
    current.store.ledger.put(JobRecord("at work", "compare", request, "running", now)).result()
    table = opened(page="jobs").dataframe[0].value
    assert list(table["ended"]) == ["1 min ago", "49 min ago"]
    assert list(table["at"]) == [now - timedelta(minutes=1), now - timedelta(minutes=49)]
    assert list(table["measured"]) == ["20 of 20", "–"], "never 0 of 0"


@pytest.mark.parametrize("page", ["compare", "pair", "layers", "matrix", "spectra", "overlap"])
def test_no_name_gets_to_be_markup(hostile: Pair, page: str):
    choices = {"name": HOSTILE_NAME} if page == "matrix" else {}
    app = with_menu(opened(None if page == "compare" else view_of(page, hostile.base, hostile.tuned, **choices)))
    assert not app.exception
    live = re.sub(r"\\.", "", texts(app))  # what stays after a backslash and its character are gone
    live = re.sub(r"\]\((take|figure|report)/[\w./-]+\?[\w.~%&=-]*\)", "", live)  # our own links: nothing but addresses
    for markup in ("](", "<", "*bold"):
        assert markup not in live


@pytest.mark.parametrize("measure", ["absolute", "relative", "ulps"])
def test_matrix_page_measures_sizes_as_the_address_says(pair: Pair, measure: str):
    name = "model.layers.0.self_attn.q_proj.weight"
    app = opened(view_of("matrix", pair.base, pair.tuned, name=name, sizes=measure))
    assert not app.exception
    assert query(app)["sizes"] == [measure]
    assert ("One unit is the distance to the next number that F32 holds" in texts(app)) == (measure == "ulps")


def test_a_preview_says_so_wherever_it_shows_and_gives_way_to_the_spectrum(current):
    pair, alignment = Pair(BASE, SEEDS[0]), small_model()
    register(current, pair, alignment)
    tallies, exact = measured(alignment)
    name = next(iter(exact))
    current.store.put(pair.key, name, tallies[name]).result()
    curve = np.array([1, 8], np.float32), np.array([2, 0.5], np.float32)
    current.store.put(pair.key, name, Preview("update", 16, 8, *curve, stable_rank=3.5, effective_rank=6.25)).result()
    view = view_of("matrix", pair.base, pair.tuned, name=name)

    before = texts(opened(view))
    assert "still to come; preview: effective about 6.25, stable 3.5" in before
    assert "Directions of the update, preview" in before
    drawn = sources.FIGURES_OF_VIEW["matrix"]["singular-values"](view)
    assert (drawn.data[0].line.dash, drawn.data[0].name.startswith("preview of ")) == ("dash", True)
    assert "preview" in drawn.layout.yaxis.title.text
    rows = sources.TABLES_OF_VIEW["matrix"]["singular-values"](view)
    assert [(row["is"], row["estimated_singular_value"]) for row in rows] == [("preview", 2), ("preview", 0.5)]
    assert not any("singular_value" in row for row in rows)
    assert lookups.headline(pair.key).spectra_measured == 0

    current.store.put(pair.key, name, Gap("spectrum", "measuring it ended the worker process twice")).result()
    failed = texts(opened(view))
    assert "still to come" not in failed
    assert "measuring it ended the worker process twice" in failed

    current.store.forget_gaps(pair.key).result()
    current.store.put(pair.key, name, exact[name]).result()
    after = texts(opened(view))
    assert "preview" not in after.lower()
    rows = list(sources.TABLES_OF_VIEW["matrix"]["singular-values"](view))
    assert "singular_value" in rows[0]
    assert "is" not in rows[0]


def test_a_tensor_that_did_not_change_is_said_to_be_so_instead_of_drawn_empty(current):
    alignment = small_model()
    pair = Pair(BASE, SEEDS[0])
    register(current, pair, alignment)
    first = alignment.pairs[0]
    same = np.ones(first.shape, np.float32)
    current.store.put(pair.key, first.name, tally_of(same, same)).result()
    app = opened(view_of("matrix", pair.base, pair.tuned, name=first.name))
    assert not app.exception
    assert "No entry of this tensor changed" in texts(app)
    assert "All numbers" in texts(app)
    assert not app.get("plotly_chart")
