"""The bundled family of small models, compared when a server first starts: something to see at once."""

from __future__ import annotations

import logging
import threading

from analysis.errors import SubnetscopeError
from analysis.models import Pair
from analysis.plan import Plan
from cache.following import is_counted
from cache.instance import Instance
from cache.jobs import Preparation
from cache.records import Notes
from cache.settings import DEMO_FOLDER

log = logging.getLogger(__name__)

BASE = "abacus-base"
RUN = "./demo/abacus-grpo-seed1/checkpoint-*\n200 ./demo/abacus-grpo-seed1"  # whose training is followed as well
SEEDS = ("abacus-grpo-seed1", "abacus-grpo-seed2", "abacus-dpo-seed1")  # whose overlap is counted as well


def members() -> list[str]:
    """The tuned models of the family, as texts to compare, those trained by reinforcement first."""
    folders = [folder.name for folder in DEMO_FOLDER.glob("*") if (folder / "model.safetensors").is_file()]
    tuned = sorted(
        (name for name in folders if name != BASE), key=lambda name: ("grpo" not in name, "sft" in name, name)
    )
    return [f"./demo/{name}" for name in tuned]


def seed(instance: Instance) -> None:
    """Asks for what the family still lacks, in a thread of its own. Already compared, it costs a second a model."""
    threading.Thread(target=_seed, args=(instance,), name="demo", daemon=True).start()


def _seed(instance: Instance) -> None:
    prepared: dict[str, Preparation] = {}
    try:
        for text in members():
            found = prepared[text] = instance.jobs.prepare(f"./demo/{BASE}", text)
            if found.pair is not None and found.pair.key not in instance.store.notes():
                instance.store.annotate(found.pair.key, _notes(text)).result()
            if found.pair is not None and instance.store.holes(found.pair.key, Plan()):
                instance.jobs.submit(found)
        pairs = [prepared[f"./demo/{name}"].pair for name in SEEDS if f"./demo/{name}" in prepared]
        _count_overlap(instance, [pair for pair in pairs if pair is not None])
        _follow_run(instance)
    except SubnetscopeError:
        log.exception("the demo family could not be compared")


def _notes(text: str) -> Notes:
    """What the folder's name tells: 'abacus-grpo-minus-seed1' is GRPO on subtraction, tagged 'demo' and 'seed 1'."""
    words = text.removeprefix("./demo/abacus-").split("-")
    data = "subtraction" if "minus" in words else "addition"
    tags = [word.replace("seed", "seed ") for word in words[1:] if word != "minus"]
    return Notes(words[0].upper(), data, ("demo", *tags))


def _count_overlap(instance: Instance, pairs: list[Pair]) -> None:
    tuned = tuple(pair.tuned.key for pair in pairs)
    if len(pairs) >= 2 and not instance.store.overlaps.regions(pairs[0].base.key, tuned, "exact"):
        instance.jobs.submit_overlap(pairs[0].base, [pair.tuned for pair in pairs])


def _follow_run(instance: Instance) -> None:
    found = instance.jobs.prepare_series(f"./demo/{BASE}", RUN)
    if not is_counted(found.series, instance.store):
        instance.jobs.submit_series(found.series)
