"""Weight files as tables of tensors: which files, which tensors, which bytes. Values are read by `reader`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from analysis.tensors import TensorInfo
from cache.weights import repository
from cache.weights.safetensors_header import LENGTH_BYTES, header_length, parse_header
from cache.weights.torch_archive import parse_archive

ReadRange = Callable[[str, int, int], bytes]  # (file, first byte, one past the last) -> exactly these bytes

# Most headers fit; one request then reads length and header together.
_FIRST_BYTES = 100_000
_AT_ONCE = 8


def list_tensors(size_of_file: Mapping[str, int], read: ReadRange, *, pickles: bool = False) -> list[TensorInfo]:
    """Every tensor of a model, file by file, from headers and index alone. `size_of_file` names all its files,
    relative to the model's folder; `pickles` allows PyTorch's. Raises NoWeights or BadWeights."""
    kind = repository.kind_of(size_of_file.keys(), pickles=pickles)
    index = None
    if kind.index in size_of_file:
        index = read(kind.index, 0, min(size_of_file[kind.index], repository.MAX_INDEX_BYTES))
    layout = repository.layout(size_of_file.keys(), index, kind)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        headers = pool.map(lambda file: read_header(file, size_of_file[file], read), layout.files)
        tensors = repository.merge(layout, dict(zip(layout.files, headers, strict=True)))
    return tensors + repository.beside(layout)


def read_header(file: str, size: int, read: ReadRange) -> list[TensorInfo]:
    """The tensors of one file, from one read of 100 KB and a second one only where the header is longer; of a pickle's
    archive from its directory and its pickle."""
    if file.endswith(repository.PICKLES.ending):
        return parse_archive(file, size, read)
    start = read(file, 0, min(size, _FIRST_BYTES))
    end = LENGTH_BYTES + header_length(start, size, file)
    if end > len(start):
        start += read(file, len(start), end)
    return parse_header(start, size, file)
