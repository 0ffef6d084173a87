"""Weight files as tables of tensors: which files, which tensors, which bytes. Values are read by `reader`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from analysis.errors import BadWeights
from analysis.tensors import TensorInfo
from cache.weights import repository
from cache.weights.safetensors_header import LENGTH_BYTES, MAX_TENSORS, header_length, parse_header
from cache.weights.torch_archive import parse_archive

ReadRange = Callable[[str, int, int], bytes]  # (file, first byte, one past the last) -> exactly these bytes

# Most headers fit; one request then reads length and header together.
_FIRST_BYTES = 100_000
_AT_ONCE = 8
MAX_FILES = 5_000  # the largest models have some hundreds


def list_tensors(size_of_file: Mapping[str, int], read: ReadRange, *, pickles: bool = False) -> list[TensorInfo]:
    """Every tensor of a model, file by file, from headers and index alone. `size_of_file` names all its files,
    relative to the model's folder; `pickles` allows PyTorch's. Raises NoWeights or BadWeights."""
    kind = repository.kind_of(size_of_file.keys(), pickles=pickles)
    index = None
    if kind.index in size_of_file:
        index = _read_index(kind.index, size_of_file[kind.index], read)
    layout = repository.layout(size_of_file.keys(), index, kind)
    return repository.merge(layout, _read_headers(layout.files, size_of_file, read)) + repository.beside(layout)


def _read_index(file: str, size: int, read: ReadRange) -> bytes:
    if size > repository.MAX_INDEX_BYTES:
        raise BadWeights(
            f"{file} holds {size:,} bytes",
            expected=f"At most {repository.MAX_INDEX_BYTES:,} are read",
            do="Choose another revision, or repair the index",
        )
    return read(file, 0, size)


def _read_headers(
    files: Sequence[str], size_of_file: Mapping[str, int], read: ReadRange
) -> dict[str, list[TensorInfo]]:
    """The tensors of each file; refused as soon as files or tensors are too many, the rest then unread."""
    if len(files) > MAX_FILES:
        raise BadWeights(f"The model has {len(files):,} weight files", expected=f"At most {MAX_FILES:,} are read")
    tensors_of_file: dict[str, list[TensorInfo]] = {}
    n_tensors = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        headers = pool.map(lambda file: read_header(file, size_of_file[file], read), files)
        for file, tensors in zip(files, headers, strict=True):
            tensors_of_file[file] = tensors
            n_tensors += len(tensors)
            if n_tensors > MAX_TENSORS:
                pool.shutdown(wait=False, cancel_futures=True)
                raise BadWeights(f"The files of the model hold more than {MAX_TENSORS:,} tensors, which are not read")
    return tensors_of_file


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
