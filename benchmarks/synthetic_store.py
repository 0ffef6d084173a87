"""A store as a large pair leaves it, without its weights: real tallies, spectra, regions and steps of true array sizes.

    python -m benchmarks.synthetic_store FOLDER [--size 8b|moe] [--models 3]

'8b' has the 291 tensors of a Llama of 8 billion parameters, 226 of them matrices; 'moe' the 45,000 of a mixture of 256
experts in 58 layers, shaped like a model of 671 billion. Numbers are invented but consistent: histograms, rows, columns
and blocks of a tensor sum to the same changed entries, as an update in bfloat16 by reinforcement learning leaves them.
Everything goes through `Store.put`, as from a worker.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.measurements import (
    CHANGE_EDGES,
    MAX_DENSITY_SIDE,
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
    Regions,
    Spectrum,
    StepCounts,
    Tally,
    first_changed_bin,
)
from analysis.models import Pair, PinnedModel
from analysis.noise import noise_values
from analysis.places import place_of, reading_order
from analysis.plan import Plan
from analysis.series import Series
from analysis.tensors import Alignment, TensorInfo, TensorPair
from cache.records import ModelCard
from cache.store import Store
from tests.hub.builders import llama_shapes

Shapes = Mapping[str, tuple[int, ...]]
Weights = NDArray[np.float64]
_VARIANTS = 4  # of how changes lie within a tensor, by shape


def llama_8b() -> Shapes:
    """A Llama of 8 billion parameters: 226 matrices, 65 norms."""
    return llama_shapes(layers=32, hidden=4096, inner=14336, keys=1024, vocabulary=128256, head=True)


def mixture_671b() -> dict[str, tuple[int, ...]]:
    """A mixture of 256 experts in 58 of 61 layers, with latent attention: 671 billion parameters."""
    hidden, inner, dense = 7168, 2048, 18432
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (129280, hidden)}
    for layer in range(61):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.input_layernorm.weight": (hidden,),
            f"{block}.self_attn.q_a_proj.weight": (1536, hidden),
            f"{block}.self_attn.q_a_layernorm.weight": (1536,),
            f"{block}.self_attn.q_b_proj.weight": (24576, 1536),
            f"{block}.self_attn.kv_a_proj_with_mqa.weight": (576, hidden),
            f"{block}.self_attn.kv_a_layernorm.weight": (512,),
            f"{block}.self_attn.kv_b_proj.weight": (32768, 512),
            f"{block}.self_attn.o_proj.weight": (hidden, 16384),
            f"{block}.post_attention_layernorm.weight": (hidden,),
        }
        feeds = [("mlp", dense)] if layer < 3 else [("mlp.shared_experts", inner)]
        if layer >= 3:
            shapes |= {f"{block}.mlp.gate.weight": (256, hidden)}
            feeds += [(f"mlp.experts.{expert}", inner) for expert in range(256)]
        for feed, width in feeds:
            shapes[f"{block}.{feed}.gate_proj.weight"] = (width, hidden)
            shapes[f"{block}.{feed}.up_proj.weight"] = (width, hidden)
            shapes[f"{block}.{feed}.down_proj.weight"] = (hidden, width)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (129280, hidden)}


@dataclass(frozen=True)
class Family:
    """What is written: the models' name, their tensors, and what their config.json says."""

    name: str
    shapes: Shapes
    config: Mapping[str, object]


def family(size: str) -> Family:
    if size == "8b":
        config = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
        return Family("bench/llama-8b", llama_8b(), config)
    config = {"model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128, "num_key_value_heads": 128}
    return Family("bench/mixture-671b", mixture_671b(), config)


def model(name: str) -> PinnedModel:
    return PinnedModel("hub", name, f"{abs(hash_of(name)):040x}"[-40:])


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode().ljust(20, b"-")[-20:], "big")


def alignment_of(shapes: Shapes) -> Alignment:
    pairs, at = [], 0
    for name, shape in shapes.items():
        info = TensorInfo(name, "BF16", shape, "model.safetensors", at, at + 2 * math.prod(shape))
        pairs.append(TensorPair(info, info, place_of(name)))
        at = info.end
    parameters = sum(math.prod(shape) for shape in shapes.values())
    return Alignment(tuple(sorted(pairs, key=reading_order)), (), parameters, parameters)


def spread(total: int, weights: Weights) -> NDArray[np.int64]:
    """`total` in whole numbers by these weights, which sum to 1."""
    counts = (total * weights).astype(np.int64)
    counts[: total - int(counts.sum())] += 1  # what rounding down left over, fewer than there are weights
    return counts


@lru_cache(maxsize=200)
def lines(n: int, variant: int) -> Weights:
    """How changes lie over n rows, columns or blocks: nearly even, a few of them twice as dense."""
    random = np.random.default_rng(1000 * n + variant)
    weights = 1 + 0.06 * random.standard_normal(n)
    weights[random.integers(0, n, max(n // 200, 1))] *= 2
    return weights / weights.sum()


@lru_cache(maxsize=_VARIANTS)
def histogram(variant: int) -> tuple[Weights, Weights, Weights, Weights]:
    """(joint by binade and size, entries by binade, relative sizes, steps): shares of the changed entries, of all."""
    shift = 0.4 * variant
    binades = np.exp(-0.5 * ((np.arange(N_BINADES) - 24 - shift) / 2.2) ** 2)
    binades[binades < 1e-7] = 0
    sizes = np.arange(N_CHANGE_BINS)
    joint = np.zeros((N_BINADES, N_CHANGE_BINS))
    for binade in np.flatnonzero(binades):
        middle = 20 * (12 + (binade - 31 - 8) * math.log10(2))  # one step of bfloat16 of that binade
        joint[binade] = binades[binade] * np.exp(-0.5 * ((sizes - middle) / 5) ** 2)
    joint[joint < 1e-7 * joint.max()] = 0
    relative = np.exp(-0.5 * ((np.arange(N_RELATIVE_BINS) - 96) / 6) ** 2)
    steps = 4.0 ** -np.arange(N_ULP_BINS)
    return (joint / joint.sum(), *(found / found.sum() for found in (binades, relative, steps)))


def tally(shape: tuple[int, ...], share: float, variant: int) -> Tally:
    """The tally of a tensor of which this share changed."""
    entries, columns = math.prod(shape), shape[-1]
    rows = entries // columns
    joint_weights, binades, relative, steps = histogram(variant % _VARIANTS)
    changed = round(entries * share)
    cells = np.flatnonzero(joint_weights)
    joint = np.zeros(joint_weights.size, np.int64)
    joint[cells] = spread(changed, joint_weights.reshape(-1)[cells])
    joint = joint.reshape(joint_weights.shape)
    mukherjee = joint[:, first_changed_bin("1e-5") :].sum(axis=1)
    bf16 = joint[:, first_changed_bin("1e-6") :].sum(axis=1)
    middles = np.sqrt(CHANGE_EDGES[:-1].astype(np.float64) * CHANGE_EDGES[1:])
    squares = float((joint.sum(axis=0)[1:-1] * middles**2).sum())
    down, across = (-(-side // -(-side // MAX_DENSITY_SIDE)) for side in (rows, columns))
    of_base = entries * 4e-4
    flips = changed // 5000
    return Tally(
        entries=entries,
        nonfinite=0,
        nonfinite_same=0,
        equal=entries - changed,
        bf16_unchanged=entries - int(bf16.sum()),
        mukherjee_unchanged=entries - int(mukherjee.sum()),
        sign_flips=flips,
        base_square_sum=of_base,
        tuned_square_sum=of_base + squares,
        update_square_sum=squares,
        update_abs_sum=float((joint.sum(axis=0)[1:-1] * middles).sum()),
        base_dot_tuned=of_base,
        base_sum=0.0,
        tuned_sum=0.0,
        max_abs_update=float(CHANGE_EDGES[np.flatnonzero(joint.sum(axis=0))[-1]]) if changed else 0.0,
        joint=joint,
        base_binades=np.maximum(spread(entries, binades), joint.sum(axis=1)),
        mukherjee_binades=mukherjee,
        bf16_binades=bf16,
        relative=spread(changed, relative),
        ulps=spread(changed - flips, steps),
        row_changes=spread(changed, lines(rows, variant % _VARIANTS)),
        column_changes=spread(changed, lines(columns, variant % _VARIANTS)),
        density=spread(changed, lines(down * across, variant % _VARIANTS)).reshape(down, across),
    )


@lru_cache(maxsize=60)
def values(rows: int, columns: int) -> NDArray[np.float64]:
    found = noise_values(rows, columns, 1.0)
    found[:20] *= 1 + 4.0 / np.arange(1, 21)
    return found


def spectrum(shape: tuple[int, ...], square_sum: float, variant: int) -> Spectrum:
    """Noise with a few strong directions, of the update's size."""
    singular = (values(*shape) * math.sqrt(square_sum) * (1 + 0.01 * variant)).astype(np.float32)
    tolerance = max(shape) * float(np.finfo(np.float32).eps) * float(singular[0])
    rank = int((singular > tolerance).sum())
    return Spectrum("update", *shape, singular, tolerance, rank, rank, rank, "band and float32")


def regions(shape: tuple[int, ...], shares: list[float]) -> Regions:
    """The regions of models that agree a little more than chance."""
    entries, k = math.prod(shape), len(shares)
    weights = np.ones(1 << k)
    for subset in range(1 << k):
        for bit, share in enumerate(shares):
            weights[subset] *= share if subset >> bit & 1 else 1 - share
        weights[subset] *= 1.5 ** max(subset.bit_count() - 1, 0)
    weights[0] += 1 - weights.sum()
    return Regions.of("exact", spread(entries, weights))


def steps(shape: tuple[int, ...], shares: list[float]) -> StepCounts:
    entries = math.prod(shape)
    changed = np.round(entries * np.array(shares)).astype(np.int64)
    outside = (changed * 0.3).astype(np.int64)
    outside[-1] = 0
    union = np.maximum.accumulate((changed * 1.1).astype(np.int64))
    return StepCounts("exact", entries, changed, changed // 2, outside, outside // 2, union)


def share_of(name: str, seed: int) -> float:
    """The share of a tensor that a run changed: more in the middle layers, a little another by matrix and by run."""
    place = place_of(name)
    if place.block == "norm":
        return 0.002
    bulge = math.exp(-(((place.layer if place.layer is not None else 0) - 30) ** 2) / 800)
    return 0.06 + 0.10 * bulge + 0.02 * (sum(map(ord, name)) % 7) / 7 + 0.01 * seed


def models(known: Family, n_models: int) -> tuple[PinnedModel, list[PinnedModel]]:
    """The base and what was tuned from it."""
    return model(f"{known.name}-base"), [model(f"{known.name}-step_{100 * (i + 1)}") for i in range(n_models)]


def write(store: Store, size: str, n_models: int) -> int:
    """Puts a base with so many models tuned from it, their overlap, and the run that they would be the checkpoints of;
    returns the number of measurements."""
    known = family(size)
    alignment = alignment_of(known.shapes)
    base, tuned = models(known, n_models)
    shares = {name: [share_of(name, seed) for seed in range(n_models)] for name in known.shapes}
    n = 0
    for seed, one in enumerate(tuned):
        of_run = {name: of_models[seed] for name, of_models in shares.items()}
        n += write_pair(store, Pair(base, one), known, alignment, of_run, spectra=True)
    n += write_overlap(store, base, tuned, alignment, shares)
    series = Series(base, tuple(tuned))
    for pair, share in zip(series.from_previous[1:], (0.5, 0.4, 0.3), strict=False):
        halves = {name: share * of_models[0] for name, of_models in shares.items()}
        n += write_pair(store, pair, known, alignment, halves, spectra=False)
    store.series.register(series, [str(100 * (i + 1)) for i in range(n_models)]).result()
    landing = [store.series.put_steps(series.key, p.name, steps(p.shape, shares[p.name])) for p in alignment.pairs]
    landing[-1].result()
    return n + len(landing)


def write_overlap(
    store: Store,
    base: PinnedModel,
    tuned: Sequence[PinnedModel],
    alignment: Alignment,
    shares: Mapping[str, list[float]],
) -> int:
    keys = [one.key for one in tuned]
    landing = [
        store.overlaps.put_regions(base.key, keys, p.name, regions(p.shape, shares[p.name])) for p in alignment.pairs
    ]
    landing[-1].result()
    return len(landing)


def write_pair(
    store: Store, pair: Pair, known: Family, alignment: Alignment, shares: Mapping[str, float], *, spectra: bool
) -> int:
    n = alignment.base_parameters
    base, tuned = (ModelCard(one.title, one.commit, known.config, "BF16", n, 2 * n) for one in (pair.base, pair.tuned))
    store.register(pair, base, tuned, alignment).result()
    store.ask(pair.key, Plan(spectra=spectra)).result()
    landing = []
    for position, one in enumerate(alignment.pairs):
        found = tally(one.shape, shares[one.name], position)
        landing.append(store.put(pair.key, one.name, found))
        if spectra and one.is_matrix:
            of_update = spectrum(one.shape, found.update_square_sum, position % 9)
            landing.append(store.put(pair.key, one.name, of_update))
    landing[-1].result()
    return len(landing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=("8b", "moe"), default="8b")
    parser.add_argument("--models", type=int, default=3)
    options = parser.parse_args()
    began = time.monotonic()
    with Store.open(options.folder / "store.duckdb") as store:
        n = write(store, options.size, options.models)
    print(f"{n:,} measurements in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
