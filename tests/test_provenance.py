"""Where numbers come from: the version and the commit of the code itself."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from analysis import citation, provenance
from analysis.models import Pair, PinnedModel
from cache import code

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == provenance.VERSION


def test_an_image_names_its_commit(monkeypatch: pytest.MonkeyPatch):
    code.commit.cache_clear()
    monkeypatch.setenv("SUBNETSCOPE_COMMIT", "c" * 40)
    assert code.commit() == "c" * 40
    code.commit.cache_clear()


def test_inside_another_repository_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch):
    code.commit.cache_clear()
    monkeypatch.delenv("SUBNETSCOPE_COMMIT", raising=False)
    monkeypatch.setattr(code, "ROOT", ROOT / "docs")
    assert code.commit() == ""
    code.commit.cache_clear()


def test_nested_values_become_one_level_of_names():
    nested = {"a": {"b": 1, "c": None}, "d": [{"e": "x"}, {"e": "y"}], "f": ""}
    assert provenance.flat(nested) == {"a.b": "1", "d.0.e": "x", "d.1.e": "y"}


def test_a_citation_names_models_commits_and_tool():
    pair = Pair(PinnedModel("hub", "org/base", "a" * 40), PinnedModel("hub", "org/tuned", "b" * 40))
    words = citation.sentence(pair, "c" * 40)
    for part in ("org/tuned at bbbbbbb", "org/base at aaaaaaa", f"Subnetscope {provenance.VERSION} (ccccccc)"):
        assert part in words
    entries = citation.bibtex("c" * 40, 2026)
    assert entries.count("@") == 3
    assert entries.count("{") == entries.count("}")
    assert f"commit {'c' * 40}" in entries
