"""Which files of a model hold its weights, and whether its index and its headers agree.

Works on names, sizes and headers alone, so that a repository on the Hub and a folder are judged by the same words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.adapter_config import MERGE_IT
from analysis.errors import BadWeights, NoWeights
from analysis.tensors import TensorInfo
from cache.weights.safetensors_header import MAX_TENSORS

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
MAX_INDEX_BYTES = 50_000_000

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
_NUMBERED = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
_DO_INDEX = "Choose another revision, or repair the repository's index"
# What else weights come in, by the end of the file's name; the first that is found names the reason.
_OTHER_FORMATS = {
    ".gguf": "GGUF files",
    ".bin": "PyTorch pickles (.bin), which can run code and are not opened",
    ".pt": "PyTorch pickles (.pt), which can run code and are not opened",
    ".pth": "PyTorch pickles (.pth), which can run code and are not opened",
    ".ckpt": "checkpoint files (.ckpt), which can run code and are not opened",
    ".h5": "TensorFlow files (.h5)",
    ".msgpack": "Flax files (.msgpack)",
    ".onnx": "ONNX files",
}


@dataclass(frozen=True)
class Layout:
    """The files that hold the weights; `shard_of_tensor` is the index, empty where there is none."""

    files: tuple[str, ...]
    shard_of_tensor: Mapping[str, str]


def layout(names: Collection[str], index: bytes | None) -> Layout:
    """Where the weights of a model lie, from the names of its files (relative to the model's folder).

    `index` is the content of model.safetensors.index.json, which decides where it exists; else model.safetensors;
    else every .safetensors file beside it; else an adapter's own file, see `is_adapter`. Raises NoWeights (with what
    was found instead), or BadWeights for an index that names files outside the folder or files that are not there.
    """
    if index is not None:
        return _indexed(names, index)
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if SINGLE_FILE in found:
        return Layout((SINGLE_FILE,), {})
    models = [name for name in found if name != ADAPTER_FILE]
    if not models and found:
        return Layout((ADAPTER_FILE,), {})
    if not models:
        raise _no_weights(names)
    _check_numbering(models)
    return Layout(tuple(models), {})


def is_adapter(names: Collection[str]) -> bool:
    """Whether these files are an adapter's and no whole model's."""
    whole = any(name.endswith(".safetensors") and "/" not in name and name != ADAPTER_FILE for name in names)
    return ADAPTER_FILE in names and not whole and INDEX_FILE not in names


def merge(layout: Layout, tensors_of_file: Mapping[str, Sequence[TensorInfo]]) -> list[TensorInfo]:
    """All tensors of all files, each once. Where two files hold a name the index decides.

    A tensor that the index forgot is kept: nothing is left out silently. Raises BadWeights, listing all
    contradictions at once.
    """
    tensors = [tensor for file in layout.files for tensor in tensors_of_file[file] if _is_meant(layout, tensor)]
    if len(tensors) > MAX_TENSORS:
        raise BadWeights(f"The model holds {len(tensors):,} tensors", expected=f"At most {MAX_TENSORS:,} are read")
    missing = layout.shard_of_tensor.keys() - {tensor.name for tensor in tensors}
    if missing:
        places = [f"{name} in {layout.shard_of_tensor[name]}" for name in sorted(missing)]
        raise BadWeights(
            f"The index names {len(missing)} tensors that their files do not hold: {_some(places)}",
            do=_DO_INDEX,
        )
    twice = sorted(name for name, count in Counter(tensor.name for tensor in tensors).items() if count > 1)
    if twice:
        raise BadWeights(
            f"More than one file holds the same tensors: {_some(twice)}",
            expected=f"Without {INDEX_FILE} each name may stand in one file only",
            do="Put each set of weights into a folder of its own, and compare that folder",
        )
    return tensors


def _indexed(names: Collection[str], index: bytes) -> Layout:
    shard_of_tensor = _read_index(index)
    shards = sorted(set(shard_of_tensor.values()))
    strange = [shard for shard in shards if not _SHARD_NAME.fullmatch(shard)]
    if strange:
        raise BadWeights(
            f"{INDEX_FILE} names {_some([ascii(shard[:80]) for shard in strange])}",
            expected="Its shards must be .safetensors files beside it",
            do=_DO_INDEX,
        )
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise BadWeights(f"{len(missing)} of {len(shards)} shards are missing: {_some(missing)}", do=_DO_INDEX)
    return Layout(tuple(shards), shard_of_tensor)


def _read_index(index: bytes) -> dict[str, str]:
    try:
        shard_of_tensor = json.loads(index.decode("utf-8"))["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BadWeights(f"{INDEX_FILE} is not an index: it has no readable 'weight_map'", do=_DO_INDEX) from error
    if (
        not isinstance(shard_of_tensor, dict)
        or not shard_of_tensor
        or not all(isinstance(shard, str) for shard in shard_of_tensor.values())
    ):
        raise BadWeights(f"The 'weight_map' of {INDEX_FILE} does not say which file holds which tensor", do=_DO_INDEX)
    return shard_of_tensor


def _is_meant(layout: Layout, tensor: TensorInfo) -> bool:
    return layout.shard_of_tensor.get(tensor.name, tensor.file) == tensor.file


def _check_numbering(models: Sequence[str]) -> None:
    """Without an index, 'x-00001-of-00003.safetensors' still tells how many there must be."""
    shards_of_set: Counter[tuple[str, str]] = Counter()
    for name in models:
        if numbered := _NUMBERED.fullmatch(name):
            shards_of_set[numbered[1], numbered[2]] += 1
    for (stem, total), count in shards_of_set.items():
        if count != int(total):
            raise BadWeights(
                f"{count} of the {int(total)} files '{stem}-…-of-{total}.safetensors' are there", do=_DO_INDEX
            )


def _no_weights(names: Collection[str]) -> NoWeights:
    if "adapter_model.bin" in names:
        return NoWeights(
            "This adapter is a PyTorch pickle (adapter_model.bin), which can run code and is not opened",
            expected=f"Adapters are read from {ADAPTER_FILE}",
            do=f"Load it with peft, and save it again. Or: {MERGE_IT}",
        )
    folders = sorted({name.rpartition("/")[0] for name in names if name.endswith(".safetensors")})
    if folders:
        return NoWeights(
            f"The weights lie in folders: {_some(folders)}",
            do="Put the folder's name behind the model's, with a '/'",
        )
    ends = {ending for name in names for ending in _OTHER_FORMATS if name.endswith(ending)}
    instead = next((text for ending, text in _OTHER_FORMATS.items() if ending in ends), "")
    return NoWeights(
        f"No safetensors weights here, only {instead}" if instead else "No safetensors weights here",
        expected="Models are read from .safetensors files only",
        do="Choose a revision or a repository that holds them, or convert the model",
    )


def _some(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    listed = list(names)
    return ", ".join(name[:120] for name in listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
