"""Settings: what the environment may say, and what it is told when it can't be meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from analysis.errors import BadSetting
from cache.memory import default_budget
from cache.settings import DEMO_FOLDER, Settings


def settings(**environ: str) -> Settings:
    return Settings.from_environment(environ)


def test_an_empty_environment_means_the_defaults():
    found = settings()
    assert found.data_dir == Path("~/.cache/subnetscope").expanduser()
    assert found.store_path == found.data_dir / "store.duckdb"
    assert found.masks_dir == found.data_dir / "store.masks"
    assert (found.mask_quota, found.memory_budget >= 10**9) == (50 * 10**9, True)
    assert (found.device, found.demo, found.endpoint) == ("auto", True, "https://huggingface.co")
    assert 1 <= found.threads <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cores", "memory", "budget"),
    [(1, 64, 1), (2, 24, 2), (16, 64, 16), (16, 32, 8), (64, 2000, 64), (8, 2, 1)],
    ids=["one core", "two cores", "all cores busy", "a quarter of the memory", "large", "small"],
)
def test_the_default_budget_grows_with_cores_and_memory(cores: int, memory: int, budget: int):
    assert default_budget(cores, memory * 10**9) == budget * 10**9


def test_the_default_budget_is_of_the_threads_and_memory_that_a_worker_gets():
    few = {"SUBNETSCOPE_DEVICE": "cpu", "SUBNETSCOPE_THREADS": "16", "SUBNETSCOPE_MEMORY_LIMIT": "20GB"}
    assert settings(**few).memory_budget == 5 * 10**9
    assert settings(**few | {"SUBNETSCOPE_DEVICE": "cuda"}).memory_budget == 10**9, "one matrix at a time"
    assert settings(**few | {"SUBNETSCOPE_MEMORY": "3GB"}).memory_budget == 3 * 10**9


def test_an_empty_variable_is_an_unset_one():
    names = ("DATA", "MASK_QUOTA", "LOCAL_ROOTS", "DEMO", "DEVICE", "MEMORY", "THREADS")
    assert settings(HF_ENDPOINT=" ", **{f"SUBNETSCOPE_{name}": "" for name in names}) == settings()


def test_data_dir_given_in_the_call_wins_over_the_variable(tmp_path: Path):
    environ = {"SUBNETSCOPE_DATA": "/elsewhere"}
    assert Settings.from_environment(environ, data_dir=tmp_path).data_dir == tmp_path
    assert Settings.from_environment(environ).data_dir == Path("/elsewhere")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20 * 10**9),
        ("20G", 20 * 10**9),
        ("1.5 tb", 1_500_000_000_000),
        ("512MiB", 512 * 1024**2),
        ("0", 0),
        ("123456", 123456),
        ("7 kB", 7000),
        ("99B", 99),
    ],
)
def test_sizes_are_bytes_with_or_without_a_suffix(text: str, size: int):
    assert settings(SUBNETSCOPE_MASK_QUOTA=text).mask_quota == size


@pytest.mark.parametrize("text", ["1", "yes", "On", "TRUE"])
def test_demo_can_be_on(text: str):
    assert settings(SUBNETSCOPE_DEMO=text).local_roots == (DEMO_FOLDER,)


@pytest.mark.parametrize("text", ["0", "no", "Off", "FALSE"])
def test_demo_can_be_off(text: str):
    assert settings(SUBNETSCOPE_DEMO=text).local_roots == ()


def test_roots_are_the_named_folders_and_the_demo_last(tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    typed = f"{one}{os.pathsep} {two}/ {os.pathsep}"
    assert settings(SUBNETSCOPE_LOCAL_ROOTS=typed).local_roots == (one, two, DEMO_FOLDER)


def test_a_root_that_is_a_link_keeps_its_own_name(tmp_path: Path):
    (tmp_path / "disk7").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk7")
    found = settings(SUBNETSCOPE_LOCAL_ROOTS=str(tmp_path / "models"), SUBNETSCOPE_DEMO="0")
    assert [root.name for root in found.local_roots] == ["models"]


def test_two_roots_of_one_name_are_refused_because_links_could_not_tell_them_apart(tmp_path: Path):
    for parent in ("a", "b"):
        (tmp_path / parent / "models").mkdir(parents=True)
    typed = os.pathsep.join(str(tmp_path / parent / "models") for parent in ("a", "b"))
    with pytest.raises(BadSetting, match="SUBNETSCOPE_LOCAL_ROOTS is set to 'models'"):
        settings(SUBNETSCOPE_LOCAL_ROOTS=typed)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SUBNETSCOPE_MASK_QUOTA", "plenty"),
        ("SUBNETSCOPE_MASK_QUOTA", "-1GB"),
        ("SUBNETSCOPE_MASK_QUOTA", "1e9"),
        ("SUBNETSCOPE_MEMORY", "1kB"),
        ("SUBNETSCOPE_LOCAL_ROOTS", "/no/such/folder"),
        ("SUBNETSCOPE_DEMO", "maybe"),
        ("SUBNETSCOPE_DEVICE", "tpu"),
        ("SUBNETSCOPE_DEVICE", "cuda:first"),
        ("SUBNETSCOPE_THREADS", "0"),
        ("SUBNETSCOPE_THREADS", "2.5"),
        ("HF_ENDPOINT", "hub.example.org"),
        ("HF_ENDPOINT", "ftp://hub.example.org"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(variable: str, value: str):
    with pytest.raises(BadSetting) as caught:
        settings(**{variable: value})
    assert caught.value.saw == f"{variable} is set to '{value}'"
    assert caught.value.expected
    assert caught.value.do


def test_an_endpoint_is_kept_without_its_last_slash():
    assert settings(HF_ENDPOINT="http://localhost:8000/hub/").endpoint == "http://localhost:8000/hub"


def test_a_password_in_the_endpoint_is_refused_and_not_repeated():
    with pytest.raises(BadSetting) as caught:
        settings(HF_ENDPOINT="https://me:secret@hub.example.org")
    assert "secret" not in str(caught.value)
