"""Links: every view becomes a query string and comes back the same; what isn't a link of ours is refused in words."""

from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from analysis.errors import BadReference
from analysis.links import (
    CHOICES_OF_PAGE,
    EDGE_OF_TOLERANCE,
    View,
    beside,
    from_query,
    pinned,
    to_link,
    to_query,
    view_of,
)
from analysis.measurements import CHANGE_EDGES, TOLERANCES
from analysis.models import PinnedModel

BASE = PinnedModel("hub", "org/base", "a" * 40)
TUNED = PinnedModel("hub", "org/tuned", "b" * 40, "checkpoint-1")
FOLDER = PinnedModel("folder", "./runs/seed 1", "files-" + "c" * 40)


def reopened(view: View) -> View:
    parts = urlsplit(to_link(view))
    return from_query(parts.path, parse_qs(parts.query, keep_blank_values=True))


@pytest.mark.parametrize("page", CHOICES_OF_PAGE)
@pytest.mark.parametrize("tuned", [TUNED, FOLDER], ids=["subfolder", "directory"])
def test_every_page_comes_back_from_its_own_link(page, tuned):
    assert reopened(view_of(page, BASE, tuned)) == view_of(page, BASE, tuned)


def test_choices_come_back_too():
    view = view_of("layers", BASE, TUNED, metric="rank", colours="fitted")
    assert reopened(view) == view
    assert reopened(view).one("metric") == "rank"


def test_a_link_names_defaults_and_whole_commits():
    link = to_link(view_of("layers", BASE, TUNED))
    assert f"base=org/base@{'a' * 40}" in link
    assert "metric=unchanged&rule=exact" in link
    assert "colours=full" in link


@pytest.mark.parametrize(
    "name",
    ["a&b=c", "x y", "über/[1].weight", "<b>", "%2F", "a+b", ""],
    ids=["query", "space", "utf8", "tag", "%", "+", "none"],
)
def test_a_tensors_name_survives_the_address(name):
    assert reopened(view_of("matrix", BASE, TUNED, name=name)).one("name") == name


def test_several_matrices_and_models_keep_their_order():
    spectra = view_of("spectra", BASE, TUNED).choosing("matrix", "b.weight", "a.weight")
    assert reopened(spectra).many("matrix") == ("b.weight", "a.weight")
    overlap = view_of("overlap", BASE, FOLDER, TUNED)
    assert reopened(overlap).tuned == (FOLDER, TUNED)
    dynamics = view_of("dynamics", BASE, TUNED, FOLDER).choosing("step", "step_100", "a & b")
    assert (reopened(dynamics).tuned, reopened(dynamics).many("step")) == ((TUNED, FOLDER), ("step_100", "a & b"))


@pytest.mark.parametrize(
    ("page", "change", "seen"),
    [
        ("layers", {"metric": ["best"]}, "'best' is no value of 'metric'"),
        ("layers", {"metric": ["rank", "turn"]}, "gives 'metric' 2 times"),
        ("layers", {"mtric": ["rank"]}, "'mtric' is no choice"),
        ("pair", {"tolerance": ["1e-5.5"]}, "no value of 'tolerance'"),
        ("pair", {"base": ["org/base"]}, "names no commit"),
        ("pair", {"base": ["org/base@main"]}, "names no commit"),
        ("pair", {"base": ["./runs/x@" + "a" * 40]}, "names no commit"),
        ("pair", {"base": ["../../etc@x y"]}, "names no commit"),
        ("pair", {"base": []}, "0 base and 1 tuned"),
        ("pair", {"tuned": [str(TUNED), str(TUNED)]}, "1 base and 2 tuned"),
        ("overlap", {"tuned": [str(TUNED)] * 13}, "13 tuned"),
        ("overlap", {"rule": ["1e-5.5"]}, "no value of 'rule'"),
        ("overlap", {"runs": ["13"]}, "'13' is no value of 'runs'"),
        ("dynamics", {"tuned": [str(TUNED)] * 65}, "65 tuned"),
        ("dynamics", {"step": ["x"] * 65}, "65 times"),
        ("dynamics", {"show": ["best"]}, "no value of 'show'"),
        ("matrix", {"name": ["x" * 5000]}, "5000 characters"),
        ("spectra", {"matrix": ["x"] * 9}, "9 times"),
    ],
)
def test_what_is_no_link_of_ours_is_refused_with_what_was_seen(page, change, seen):
    query = to_query(view_of(page, BASE, TUNED)) | change
    with pytest.raises(BadReference) as refused:
        from_query(page, query)
    assert seen in str(refused.value)
    assert refused.value.do


@pytest.mark.parametrize(
    ("page", "query", "rule", "tolerance", "metric"),
    [
        ("pair", {"tolerance": ["1e-06"]}, "tolerance", "1e-06", None),
        ("pair", {}, "exact", "1e-05", None),
        ("layers", {"metric": ["unchanged-mukherjee"], "tolerance": ["1e-05"]}, "mukherjee", "1e-05", "unchanged"),
        ("layers", {"metric": ["unchanged-tolerance"], "tolerance": ["0.001"]}, "tolerance", "0.001", "unchanged"),
        ("layers", {"metric": ["rank"], "tolerance": ["0.001"]}, "exact", "0.001", "rank"),
        ("matrix", {"name": ["w"], "colours": ["full"]}, "exact", "1e-05", None),
        ("spectra", {"metric": ["rank"]}, "exact", "1e-05", "rank"),
    ],
)
def test_links_from_before_the_rule_was_a_choice_mean_what_they_meant(page, query, rule, tolerance, metric):
    view = from_query(page, {"base": [str(BASE)], "tuned": [str(TUNED)], **query})
    assert (view.one("rule"), view.one("tolerance")) == (rule, tolerance)
    assert metric is None or view.one("metric") == metric


def test_the_rule_goes_along_to_a_pairs_other_pages():
    overview = view_of("pair", BASE, TUNED, rule="tolerance", tolerance="1e-06")
    for page in ("layers", "spectra", "pair"):
        other = beside(page, BASE, TUNED, overview.choices)
        assert (other.one("rule"), other.one("tolerance")) == ("tolerance", "1e-06")
    matrix = beside("matrix", BASE, TUNED, to_query(overview), name="w")
    assert (matrix.one("name"), matrix.unchanged_metric) == ("w", "unchanged-tolerance")
    assert beside("layers", BASE, TUNED, {"rule": ["1e-8"]}).one("rule") == "exact", "a rule of the overlap's alone"


def test_a_pinned_reference_reads_back():
    assert [pinned(str(model)) for model in (BASE, TUNED, FOLDER)] == [BASE, TUNED, FOLDER]


def test_slider_positions_are_edges_of_the_histogram_and_hold_the_published_tolerances():
    assert all(
        np.float32(text) == pytest.approx(CHANGE_EDGES[edge], rel=5e-3) for text, edge in EDGE_OF_TOLERANCE.items()
    )
    edges = {np.float32(CHANGE_EDGES[edge]) for edge in EDGE_OF_TOLERANCE.values()}
    assert {np.float32(tolerance) for tolerance in TOLERANCES} <= edges
