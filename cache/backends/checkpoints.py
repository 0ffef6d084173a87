"""The child that looks before a run of checkpoints is followed: finds them, pins them, aligns every pair.

Has the network and the token; reads no weights. Each model is looked up and its headers are read once, however many
pairs it is in. Run as `python -m cache.backends.checkpoints`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from typing import Any

from analysis.errors import BadReference, ModelNotFound
from analysis.models import Pair
from analysis.series import MOST_CHECKPOINTS, Asked, label_of, read_line, series_of, too_many
from analysis.tensors import TensorInfo
from cache import catalog
from cache.backends.child import Send, serve
from cache.backends.prepare import aligned, card, needed_files
from cache.found import FoundModel
from cache.settings import Settings


def checkpoints(request: dict[str, Any], send: Send) -> None:
    """Sends 'found' once (the base, the checkpoints and their labels), 'aligned' for each pair of the series, and
    'sized' with the bytes that are to be fetched."""
    settings = Settings.from_environment()
    any_folder = bool(request["any_folder"])
    base = catalog.find(catalog.reference(request["base"], any_folder=any_folder), settings, any_folder=any_folder)
    found, labels, notes = _found(request["lines"], settings, any_folder=any_folder)
    series = series_of(base.pinned, [one.pinned for one in found])
    send({"event": "found", "base": base.pinned, "models": series.checkpoints, "labels": labels, "notes": notes})
    model_of_key = {one.pinned.key: one for one in (base, *found)}
    tensors_of_key = {key: catalog.list_tensors(one, settings) for key, one in model_of_key.items()}
    files_of_key: dict[str, set[str]] = {key: set() for key in model_of_key}
    for pair in series.pairs:
        message = _aligned(pair, model_of_key, tensors_of_key)
        files_of_key[pair.base.key] |= set(needed_files(message["alignment"], "base"))
        files_of_key[pair.tuned.key] |= set(needed_files(message["alignment"], "tuned"))
        send({"event": "aligned", **message})
    folder = settings.data_dir if settings.data_dir.exists() else "/"
    send(
        {
            "event": "sized",
            "bytes_to_fetch": sum(
                catalog.bytes_to_fetch(one, sorted(files_of_key[key]), settings) for key, one in model_of_key.items()
            ),
            "disk_free": shutil.disk_usage(folder).free,
        }
    )


def _aligned(
    pair: Pair, model_of_key: dict[str, FoundModel], tensors_of_key: dict[str, list[TensorInfo]]
) -> dict[str, Any]:
    before, after = model_of_key[pair.base.key], model_of_key[pair.tuned.key]
    base_tensors, tuned_tensors = tensors_of_key[pair.base.key], tensors_of_key[pair.tuned.key]
    return {
        "base": before.pinned,
        "tuned": after.pinned,
        "base_card": card(before, base_tensors),
        "tuned_card": card(after, tuned_tensors),
        "alignment": aligned(before, base_tensors, after, tuned_tensors),
    }


def _found(
    lines: Sequence[str], settings: Settings, *, any_folder: bool
) -> tuple[list[FoundModel], list[str], list[str]]:
    """The models, labels for an axis, and notes. The same weights found twice by patterns count once."""
    found: dict[str, FoundModel] = {}
    labels: list[str] = []
    notes: list[str] = []
    named = [(one, *at) for one in map(read_line, lines) for at in _named(one, settings, any_folder=any_folder)]
    if len(named) > MOST_CHECKPOINTS:
        raise too_many(len(named))
    for asked, text, label in named:
        one = catalog.find(catalog.reference(text, any_folder=any_folder), settings, any_folder=any_folder)
        if one.pinned.key in found and asked.kind == "model":
            raise BadReference(f"'{text[:120]}' is named twice", do="Name each checkpoint once")
        if one.pinned.key in found:
            notes.append(f"'{label}' leads to the same weights as an earlier one and is left out.")
            continue
        found[one.pinned.key] = one
        labels.append(asked.step or label or label_of(one.pinned))
    return list(found.values()), labels, notes


def _named(asked: Asked, settings: Settings, *, any_folder: bool) -> list[tuple[str, str]]:
    """(text of a model, its label) for everything that one line means. The label is empty for a model named alone."""
    if asked.kind == "model":
        revision = asked.text.rpartition("@")[2] if "@" in asked.text and not asked.text.startswith((".", "/")) else ""
        return [(asked.text, "" if len(revision) == 40 else revision)]
    ref = catalog.reference(asked.text, any_folder=any_folder)
    if asked.kind == "folders":
        ref = dataclasses.replace(ref, revision=asked.revision)
    listing = catalog.revisions if asked.kind == "revisions" else catalog.subfolders
    text_of_name = listing(ref, settings, any_folder=any_folder)
    matching = asked.matches(text_of_name)
    if not matching:
        there = ", ".join(f"'{name[:40]}'" for name in sorted(text_of_name)[:6])
        raise ModelNotFound(
            f"None of the {asked.kind} of '{asked.text[:120]}' match '{asked.pattern[:80]}'",
            expected=f"There are {there}" if there else f"It has no {asked.kind} with weights",
            do="Correct the pattern: '*' stands for any characters",
        )
    return [(text_of_name[name], name) for name in matching]


if __name__ == "__main__":
    serve(checkpoints)
