"""Tallies, spectra and small models made by numpy alone, for tests of what is drawn from them."""

import math

import numpy as np

from analysis.alignment import align
from analysis.measurements import (
    CHANGE_EDGES,
    FIRST_BINADE,
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
    RELATIVE_EDGES,
    ULP_EDGES,
    Spectrum,
    Tally,
)
from analysis.tensors import TensorInfo


def tally_of(before: np.ndarray, after: np.ndarray) -> Tally:
    """What the kernel would store for two finite float32 arrays, worked out the slow and plain way."""
    rows = before.reshape(-1, before.shape[-1])
    change = np.abs(after - before).ravel()
    changed = change > 0
    larger = np.maximum(np.abs(before), np.abs(after)).ravel()
    relative = np.divide(change, larger, out=np.zeros_like(change, np.float64), where=larger > 0, dtype=np.float64)
    joint = np.zeros((N_BINADES, N_CHANGE_BINS), np.int64)
    np.add.at(joint, (_binade(before.ravel())[changed], np.searchsorted(CHANGE_EDGES, change[changed])), 1)
    outside = (before != after).reshape(rows.shape)
    return Tally(
        entries=before.size,
        nonfinite=0,
        nonfinite_same=0,
        equal=int((~changed).sum()),
        bf16_unchanged=int((relative <= 1e-3).sum()),
        mukherjee_unchanged=int((change <= 1e-5).sum()),
        sign_flips=int((before * after < 0).sum()),
        base_square_sum=float((before**2).sum()),
        tuned_square_sum=float((after**2).sum()),
        update_square_sum=float((change**2).sum()),
        update_abs_sum=float(change.sum()),
        base_dot_tuned=float((before * after).sum()),
        base_sum=float(before.sum(dtype=np.float64)),
        tuned_sum=float(after.sum(dtype=np.float64)),
        max_abs_update=float(change.max()),
        joint=joint,
        base_binades=np.bincount(_binade(before.ravel()), minlength=N_BINADES),
        mukherjee_binades=np.bincount(_binade(before.ravel())[change > 1e-5], minlength=N_BINADES),
        bf16_binades=np.bincount(_binade(before.ravel())[relative > 1e-3], minlength=N_BINADES),
        relative=np.bincount(np.searchsorted(RELATIVE_EDGES, relative[changed]), minlength=N_RELATIVE_BINS),
        ulps=_ulps(before.ravel(), after.ravel()),
        row_changes=outside.sum(axis=1),
        column_changes=outside.sum(axis=0),
        density=_blocks(outside),
    )


def spectrum_of(update: np.ndarray) -> Spectrum:
    values = np.linalg.svd(update, compute_uv=False).astype(np.float32)
    tolerance = float(max(update.shape) * np.finfo(np.float32).eps * values[0])
    rank = int((values > tolerance).sum())
    return Spectrum("update", *update.shape, values, tolerance, rank, rank, rank, "svd float32")


def small_model(n_layers: int = 3, *, strange: str = ""):
    """An alignment of `n_layers` layers with two matrices and a norm, an embedding, and a tensor named `strange`."""
    shapes = {"model.embed_tokens.weight": (40, 16)}
    for layer in range(n_layers):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (16, 16)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (16, 24)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (16,)
    if strange:
        shapes[strange] = (8, 8)
    infos = [TensorInfo(name, "F32", shape, "model.safetensors", 0, 4) for name, shape in shapes.items()]
    return align(infos, infos)


def measured(alignment, *, seed: int = 0, share: float = 0.2):
    """Tallies and spectra of every tensor of `alignment`, a `share` of each one's entries moved."""
    rng = np.random.default_rng(seed)
    tallies, spectra = {}, {}
    for pair in alignment.pairs:
        before = rng.normal(0, 0.02, pair.shape).astype(np.float32)
        step = (rng.normal(0, 1e-4, pair.shape) * (rng.random(pair.shape) < share)).astype(np.float32)
        tallies[pair.name] = tally_of(before, before + step)
        if pair.is_matrix:
            spectra[pair.name] = spectrum_of(before + step - before)
    return tallies, spectra


def _ulps(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """By how many float32 values apart the changed ones are, whose sign stayed."""
    steps = np.abs((after.view(np.int32) & 0x7FFFFFFF).astype(np.int64) - (before.view(np.int32) & 0x7FFFFFFF))
    counted = steps[(before != after) & (before * after >= 0)]
    return np.bincount(np.searchsorted(ULP_EDGES, counted), minlength=N_ULP_BINS)


def _binade(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        power = np.floor(np.log2(np.abs(values)))
    return np.where(values == 0, 0, np.clip(power - FIRST_BINADE + 2, 1, N_BINADES - 1)).astype(np.int64)


def _blocks(outside: np.ndarray) -> np.ndarray:
    down, across = (max(math.ceil(side / 128), 1) for side in outside.shape)
    starts = np.arange(0, outside.shape[0], down), np.arange(0, outside.shape[1], across)
    return np.add.reduceat(np.add.reduceat(outside.astype(np.int64), starts[0], axis=0), starts[1], axis=1)
