"""Choosing what to measure, from the Compare page to the pair's own: real models, a real queue, real children."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from streamlit.testing.v1 import AppTest

from analysis.labels import percent, scientific
from analysis.links import view_of
from analysis.models import Pair
from analysis.plan import Plan
from analysis.selection import select
from analysis.shift import normalized_spectral_shift
from analysis.tensors import NotCompared
from cache import instance
from pages.parts import lookups, runs
from tests.analysis.by_hand import measured, small_model
from tests.hub.builders import llama, tuned_from, write_model
from tests.pages.conftest import BASE, SEEDS, put_pair, register
from tests.pages.test_pages import opened
from tests.pages.test_pages import texts as escaped

pytestmark = pytest.mark.usefixtures("children_at_hand")
FIRST_LAYER = Plan(selection=select("0"))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[instance.Instance]:
    """The process-wide instance with a root './runs': base, and tuned from it a model whose card names another."""
    runs_dir, base = tmp_path / "runs", llama(layers=4)
    write_model(runs_dir / "base", base)
    write_model(runs_dir / "instruct", tuned_from(base, seed=3)[0])
    write_model(runs_dir / "tuned", tuned_from(base, changed_share=0.2)[0])
    (runs_dir / "tuned" / "README.md").write_text("---\nbase_model: somebody/instruct\n---\n")
    monkeypatch.setenv("SUBNETSCOPE_LOCAL_ROOTS", str(runs_dir))
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUBNETSCOPE_DEMO", "0")
    monkeypatch.setenv("SUBNETSCOPE_DEVICE", "cpu")
    instance.close()
    for remembered in (*vars(lookups).values(), *vars(runs).values()):
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()
    yield instance.current()
    instance.close()


def read(name: str) -> np.ndarray:
    """One tensor of './runs/base', by another reader than ours."""
    roots = os.environ["SUBNETSCOPE_LOCAL_ROOTS"]
    with safe_open(Path(roots) / "base" / "model.safetensors", "pt") as file:
        return file.get_tensor(name).float().numpy()


def looked_up() -> AppTest:
    return opened(page="compare", base=["./runs/base"], tuned=["./runs/tuned"])


def texts(app: AppTest) -> str:
    return escaped(app).replace("\\", "")


def numbers(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def control(app: AppTest, kind: str, name: str):
    [found] = [widget for widget in app.get(kind) if widget.key and widget.key.startswith(f"compare.{name}.")]
    return found


@pytest.mark.processes
def test_figures_follow_the_selection_and_the_pairs_page_says_what_it_is_of(models: instance.Instance):
    app = looked_up()
    assert not app.exception
    whole = numbers(app)
    assert set(whole) == {"To measure", "To download", "To store", "Memory", "Time"}
    control(app, "text_input", "layers").input("0-1").run()
    control(app, "multiselect", "modules").select("mlp.up_proj").select("mlp.down_proj").run()
    control(app, "radio", "spectra").set_value("none").run()
    assert "4 of 39 tensors; 4 measurements" in texts(app)
    assert numbers(app)["To measure"] == "8.19 K parameters"
    [start] = [button for button in app.button if button.label == "Start"]
    start.click().run()
    [pair] = [stored.pair for stored in models.store.pairs()]
    wanted = Plan(spectra=False, selection=select("0-1", ["mlp.up_proj", "mlp.down_proj"]))
    assert models.store.asked(pair.key) == (wanted,)
    wait_for(lambda: not models.jobs.active())
    app = opened(view_of("pair", pair.base, pair.tuned))
    shown = texts(app)
    assert "2 of 4 layers" in shown
    assert "as selected" in shown
    assert "No headline" not in shown
    assert numbers(app)["Unchanged, exact"] == percent(4 * (2048 - 410), 4 * 2048)
    assert numbers(app)["Compared of the selection"] == "100.00 %"
    assert "Measured as selected" in shown
    [rest] = [button for button in app.button if button.label == "Measure the rest"]
    rest.click().run()
    wait_for(lambda: not models.jobs.active())
    app = opened(view_of("pair", pair.base, pair.tuned))
    assert "as selected" not in texts(app)
    assert models.store.holes(pair.key, Plan()) == []


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_model_against_itself_is_not_started(models: instance.Instance):
    app = opened(page="compare", base=["./runs/base"], tuned=["./runs/base"])
    assert "Base and fine-tuned are the same model" in texts(app)
    assert "Start" not in [button.label for button in app.button]


def test_a_selection_that_cannot_be_read_is_answered_and_nothing_starts(models: instance.Instance):
    app = looked_up()
    control(app, "text_input", "layers").input("three").run()
    assert "'three' names no layers" in texts(app)
    assert "Start" not in [button.label for button in app.button]
    control(app, "text_input", "layers").input("40").run()
    assert "names no tensor that both models have" in texts(app)
    control(app, "text_input", "layers").input("0-1,30-31").run()
    assert "theirs are 0 to 3" in texts(app)
    assert "Start" in [button.label for button in app.button]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"memory_limit": 1_000_000}, "a worker may take 1 MB here"), ({"spare_disk": 10**17}, "are to stay free")],
    ids=["memory", "disk"],
)
def test_what_does_not_fit_is_refused_on_the_page(models: instance.Instance, changes: dict[str, int], words: str):
    models.jobs._settings = dataclasses.replace(models.jobs._settings, **changes)
    app = looked_up()
    assert any(words in error.value for error in app.error)
    [start] = [button for button in app.button if button.label == "Start"]
    assert start.disabled


def test_another_base_that_the_card_names_can_be_taken_at_look_up_and_on_the_pairs_page(models: instance.Instance):
    app = looked_up()
    assert "made from './runs/instruct'" in texts(app)
    [use] = [button for button in app.button if button.label.startswith("Use ")]
    use.click().run()
    assert app.text_input(key="compare.base").value == "./runs/instruct"
    pair = models.jobs.prepare("./runs/base", "./runs/tuned").pair
    assert pair is not None
    app = opened(view_of("pair", pair.base, pair.tuned))
    assert any("made from another base" in warning.value for warning in app.warning)
    [compare] = [button for button in app.button if button.label.startswith("Compare with ")]
    assert "instruct" in compare.label


def measured_in_part(current: instance.Instance, alignment, pair: Pair) -> Pair:
    register(current, pair, alignment)
    current.store.ask(pair.key, FIRST_LAYER).result()
    tallies, spectra = measured(alignment)
    for name, found in [*tallies.items(), *spectra.items()]:
        if ".layers.0." in name:
            current.store.put(pair.key, name, found).result()
    return pair


def test_what_was_not_asked_for_does_not_take_the_headline_away(current: instance.Instance):
    """Most of the tuned model has no partner, outside the layer that was selected."""
    alignment = small_model()
    missing = NotCompared("model.vision.weight", "tuned", "only the tuned model has it", 9000)
    alignment = dataclasses.replace(
        alignment, not_compared=(missing,), tuned_parameters=alignment.compared_parameters + missing.parameters
    )
    pair = measured_in_part(current, alignment, Pair(BASE, SEEDS[0]))
    app = opened(view_of("pair", pair.base, pair.tuned))
    assert "1 of 3 layers" in texts(app)
    assert "Unchanged, exact" in numbers(app)
    assert not app.exception


@pytest.mark.parametrize("page", ["layers", "spectra", "matrix"])
def test_other_pages_of_a_pair_measured_in_part_draw_and_offer_the_rest(current: instance.Instance, page: str):
    pair = measured_in_part(current, small_model(), Pair(BASE, SEEDS[0]))
    choices = {"name": "model.layers.2.mlp.down_proj.weight"} if page == "matrix" else {}
    app = opened(view_of(page, pair.base, pair.tuned, **choices))
    assert not app.exception
    assert "Measure the rest" in [button.label for button in app.button]
    assert page != "matrix" or "not measured yet" in texts(app)


def test_a_nearer_base_in_the_store_is_named_with_a_way_to_it(current: instance.Instance):
    far, near = Pair(BASE, SEEDS[0]), Pair(SEEDS[1], SEEDS[0])
    put_pair(current, far, small_model())
    register(current, near, small_model())
    tallies, _ = measured(small_model(), share=0.01)
    for name, tally in tallies.items():
        current.store.put(near.key, name, tally).result()
    app = opened(view_of("pair", far.base, far.tuned))
    assert any("is clearly nearer" in warning.value for warning in app.warning)
    links = [link.proto.label.replace("\\", "") for link in app.get("page_link")]
    assert f"Open the comparison with {SEEDS[1].title}" in links
    assert not any("is clearly nearer" in w.value for w in opened(view_of("pair", near.base, near.tuned)).warning)


def test_the_table_of_what_is_not_compared_can_be_taken_away(current: instance.Instance):
    missing = NotCompared("model.vision.weight", "tuned", "only the tuned model has it", 9)
    pair = put_pair(current, Pair(BASE, SEEDS[0]), dataclasses.replace(small_model(), not_compared=(missing,)))
    app = opened(view_of("pair", pair.base, pair.tuned))
    labels = [button.proto.label for button in app.get("download_button")]
    assert "1 row as CSV" in labels


def test_base_and_tuned_spectra_are_measured_when_asked_for_and_leave_the_rest_as_it_is(models: instance.Instance):
    found = models.jobs.prepare("./runs/base", "./runs/tuned")
    models.jobs.wait(models.jobs.submit(found, FIRST_LAYER), timeout=180)
    pair, name = found.pair, "model.layers.0.self_attn.q_proj.weight"
    view = view_of("matrix", pair.base, pair.tuned, name=name)
    before = numbers(opened(view_of("pair", pair.base, pair.tuned)))

    app = opened(view)
    button = next(b for b in app.button if b.label == "Measure base and tuned spectra of this matrix")
    button.click().run()
    until = time.monotonic() + 60
    while models.jobs.active() and time.monotonic() < until:
        time.sleep(0.1)

    base, tuned = (models.store.spectrum(pair.key, name, side) for side in ("base", "tuned"))
    expected = normalized_spectral_shift(base, tuned)
    assert 0 < expected < 1
    shown = opened(view)
    assert f"Normalized spectral shift {scientific(expected)}" in texts(shown)
    assert not [b for b in shown.button if b.label.startswith("Measure base and tuned")]
    assert numbers(opened(view_of("pair", pair.base, pair.tuned))) == before
    raw = np.linalg.svd(read(name), compute_uv=False)
    assert base.singular_values == pytest.approx(raw, rel=1e-4)


def test_one_matrix_stands_beside_itself_in_other_layers_and_models(models: instance.Instance):
    for tuned in ("tuned", "instruct"):
        found = models.jobs.prepare("./runs/base", f"./runs/{tuned}")
        models.jobs.wait(models.jobs.submit(found), timeout=180)
    name = "model.layers.2.mlp.down_proj.weight"
    for over, words in (("layers", "Measure base and tuned spectra of 4 matrices"), ("models", "")):
        view = view_of("spectra", found.pair.base, found.pair.tuned, over=over).choosing("matrix", name)
        app = opened(view)
        assert not app.exception
        assert app.selectbox(key="spectra.first").value == name
        assert [b.label for b in app.button if "base and tuned" in b.label] == ([words] if words else [])
    assert "The same matrix of 2 models compared here with this base." in texts(app)
