"""Blocks of both sides on their way to the device: while one is worked on, the next is copied.

For a CUDA device each block is copied into pinned memory, from where the card fetches it by itself, on a stream of its
own. Buffers and stream make a lane; lanes are kept and lent again, one to each pass, so that passes in several threads
and on several GPUs never share one. Without a CUDA device nothing is pinned and nothing copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]

_spare_lanes: defaultdict[torch.device, list[_Lane]] = defaultdict(list)


def on_device(blocks: Iterable[Pair], device: torch.device) -> Iterator[Pair]:
    """The same blocks there, in order. A block's memory is used again once the next one is asked for; on a CUDA device
    the next one has been read from `blocks`, and is on its way, when a block is handed out."""
    if device.type != "cuda":
        for before, after in blocks:
            yield before.to(device), after.to(device)
        return
    spare = _spare_lanes[device]
    try:
        lane = spare.pop()
    except IndexError:
        lane = _Lane(device)
    try:
        under_way: _Slot | None = None
        for before, after in blocks:
            arriving = lane.send(before, after)
            if under_way is not None:
                yield from under_way.lent()
            under_way = arriving
        if under_way is not None:
            yield from under_way.lent()
    finally:
        spare.append(lane)


class _Lane:
    """A stream for copies, and two slots that take turns."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._slots = [_Slot(device), _Slot(device)]

    def send(self, before: Tensor, after: Tensor) -> _Slot:
        """Has both sides copied into the slot whose turn it is; they may be overwritten as soon as this returns."""
        slot = self._slots[0]
        self._slots.reverse()
        slot.fill(before, after, self._stream)
        return slot


class _Slot:
    """Room for one block: pinned, and on the device. `copied` and `free` order the two streams and the host."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned, self._there = torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)
        self._block: Pair | None = None
        self._copied, self._free = torch.cuda.Event(), torch.cuda.Event()

    def fill(self, before: Tensor, after: Tensor, stream: torch.cuda.Stream) -> None:
        sides = [before] if after is before else [before, after]
        starts = [0, _padded(before)]
        self._copied.synchronize()  # what was pinned here before has left
        self._make_room(sum(map(_padded, sides)))
        placed = []
        stream.wait_event(self._free)
        for side, start in zip(sides, starts, strict=False):
            part = slice(start, start + side.nbytes)
            pinned = self._pinned[part].view(side.dtype).view(side.shape).copy_(side)
            there = self._there[part].view(side.dtype).view(side.shape)
            with torch.cuda.stream(stream):
                there.copy_(pinned, non_blocking=True)
            placed.append(there)
        self._copied.record(stream)
        self._block = placed[0], placed[-1]

    def lent(self) -> Iterator[Pair]:
        """The block, once; what its user has launched by the time he comes back keeps the slot from being filled."""
        assert self._block is not None
        worker = torch.cuda.current_stream(self._device)
        worker.wait_event(self._copied)
        try:
            yield self._block
        finally:
            self._free.record(torch.cuda.current_stream(self._device))

    def _make_room(self, n_bytes: int) -> None:
        if len(self._pinned) >= n_bytes:
            return
        self._pinned = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
        self._there = torch.empty(n_bytes, dtype=torch.uint8, device=self._device)
        self._free.record(torch.cuda.current_stream(self._device))  # whoever had that memory before is done by then


def _padded(side: Tensor) -> int:
    """Bytes of a side, so that the next one begins where any type may."""
    return -(-side.nbytes // 256) * 256
