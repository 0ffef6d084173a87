"""Which files of a model hold its weights, and whether its index and its headers agree.

Works on names, sizes and headers alone, so that a repository on the Hub and a folder are judged by the same words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.errors import BadWeights
from analysis.labels import shorten
from analysis.tensors import NO_PARAMETER, TensorInfo
from cache.weights.instead import no_weights
from cache.weights.safetensors_header import MAX_TENSORS

INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
MAX_INDEX_BYTES = 50_000_000

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+")
_NUMBERED = re.compile(r"(.+)-\d{5}-of-(\d{5})")
_DO_INDEX = "Choose another revision, or repair the repository's index"


@dataclass(frozen=True)
class Kind:
    """One kind of weight files, by the names that libraries give them."""

    title: str
    ending: str
    single: str
    index: str
    found: re.Pattern[str]  # where there is no index: which files may be weights

    def among(self, names: Iterable[str]) -> list[str]:
        """The weight files of this kind that lie in the model's own folder."""
        return sorted(name for name in names if self.found.fullmatch(name) and name != ADAPTER_FILE)


SAFETENSORS = Kind("safetensors", ".safetensors", "model.safetensors", INDEX_FILE, re.compile(r"[^/]+\.safetensors"))
PICKLES = Kind(
    "PyTorch",
    ".bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    re.compile(r"pytorch_model(?:_fsdp|-\d{5}-of-\d{5})?\.bin"),
)


def kind_of(names: Collection[str], *, pickles: bool) -> Kind:
    """Which kind of a model's files is read: safetensors wherever there are some, pickles only where they are allowed
    and alone."""
    if pickles and not SAFETENSORS.among(names) and INDEX_FILE not in names and PICKLES.among(names):
        return PICKLES
    return SAFETENSORS


@dataclass(frozen=True)
class Layout:
    """The files that hold the weights; `shard_of_tensor` is the index, empty where there is none. `unread` are files
    beside them, of the same kind, that hold another copy of the weights, or none."""

    files: tuple[str, ...]
    shard_of_tensor: Mapping[str, str]
    unread: tuple[str, ...] = ()


def layout(names: Collection[str], index: bytes | None, kind: Kind = SAFETENSORS) -> Layout:
    """Where the weights of a model lie, from the names of its files (relative to the model's folder).

    `index` is the content of the kind's index, which decides where it exists; else the single file of the usual name;
    else a whole set of numbered files; else every file of the kind; else an adapter's own file, see `is_adapter`.
    Raises NoWeights (with what was found instead), or BadWeights for an index that names files outside the folder or
    files that are not there.
    """
    if index is not None:
        return _indexed(names, index, kind)
    found = kind.among(names)
    if kind.single in found:
        return Layout((kind.single,), {}, _unread(found, (kind.single,)))
    if not found and ADAPTER_FILE in names:
        return Layout((ADAPTER_FILE,), {})
    if not found:
        raise no_weights(names)
    _check_numbering(found, kind)
    numbered = [name for name in found if _NUMBERED.fullmatch(name.removesuffix(kind.ending))]
    files = tuple(numbered or found)
    return Layout(files, {}, _unread(found, files))


def _unread(found: Iterable[str], files: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in found if name not in files)


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
        places = [f"{shorten(name, 120)} in {layout.shard_of_tensor[name]}" for name in sorted(missing)]
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


def beside(layout: Layout) -> list[TensorInfo]:
    """What stands for the files that are not read, so that each is listed: tensors without entries, set aside."""
    instead = layout.files[0] if len(layout.files) == 1 else f"{len(layout.files)} others"
    reason = f"a file that is not read: {instead} {'holds' if len(layout.files) == 1 else 'hold'} the weights; "
    return [TensorInfo(name, "", (0,), name, 0, 0, aside=reason + NO_PARAMETER) for name in layout.unread]


def _indexed(names: Collection[str], index: bytes, kind: Kind) -> Layout:
    shard_of_tensor = _read_index(index, kind)
    shards = sorted(set(shard_of_tensor.values()))
    strange = [shard for shard in shards if not (_SHARD_NAME.fullmatch(shard) and shard.endswith(kind.ending))]
    if strange:
        raise BadWeights(
            f"{kind.index} names {_some([ascii(shard[:80]) for shard in strange])}",
            expected=f"Its shards must be {kind.ending} files beside it",
            do=_DO_INDEX,
        )
    missing = [shard for shard in shards if shard not in names]
    if missing:
        saw = f"{len(missing)} of the {len(shards)} shards that {kind.index} names are missing: {_some(missing)}"
        raise BadWeights(saw, do=_DO_INDEX)
    return Layout(tuple(shards), shard_of_tensor, _unread(kind.among(names), shards))


def _read_index(index: bytes, kind: Kind) -> dict[str, str]:
    try:
        shard_of_tensor = json.loads(index.decode("utf-8"))["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BadWeights(f"{kind.index} is not an index: it has no readable 'weight_map'", do=_DO_INDEX) from error
    if (
        not isinstance(shard_of_tensor, dict)
        or not shard_of_tensor
        or not all(isinstance(shard, str) for shard in shard_of_tensor.values())
    ):
        raise BadWeights(f"The 'weight_map' of {kind.index} does not say which file holds which tensor", do=_DO_INDEX)
    if len(shard_of_tensor) > MAX_TENSORS:
        raise BadWeights(
            f"{kind.index} names {len(shard_of_tensor):,} tensors", expected=f"At most {MAX_TENSORS:,} are read"
        )
    return shard_of_tensor


def _is_meant(layout: Layout, tensor: TensorInfo) -> bool:
    return layout.shard_of_tensor.get(tensor.name, tensor.file) == tensor.file


def _check_numbering(models: Sequence[str], kind: Kind) -> None:
    """Without an index, 'x-00001-of-00003.safetensors' still tells how many there must be."""
    shards_of_set: Counter[tuple[str, str]] = Counter()
    for name in models:
        if numbered := _NUMBERED.fullmatch(name.removesuffix(kind.ending)):
            shards_of_set[numbered[1], numbered[2]] += 1
    for (stem, total), count in shards_of_set.items():
        if count != int(total):
            files = f"{stem}-…-of-{total}{kind.ending}"
            raise BadWeights(f"{count} of the {int(total)} files '{files}' are there", do=_DO_INDEX)


def _some(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    listed = list(names)
    return ", ".join(shorten(name, 240) for name in listed[:5]) + (
        f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    )
