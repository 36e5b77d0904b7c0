"""Link to the other ranks: tensors sent, gathered and exchanged over torch.distributed, and counted.

NCCL between CUDA devices, gloo between processors. What a rank is told in words goes over its channel
(parallel/channel.py), so that nothing here ever waits for a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.lost import LinkLost

ARRIVAL = timedelta(minutes=5)
"""In which all ranks have to come."""
_PATIENCE = timedelta(days=1)
"""A rank may sleep; whether it is gone is for its channel to tell."""


def open_store(host: str, port: int, *, listens: bool) -> Any:
    """Where ranks find each other; RuntimeError if the port is in use, or nobody is there.

    Args:
        host: of rank 0.
        port: there; 0 takes a free one.
        listens: this process opens it.
    """
    store: Any = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        host, port, None, is_master=listens, wait_for_workers=False, timeout=ARRIVAL
    )
    return store


class Link:
    """One rank's end.

    Args:
        rank: its number.
        size: how many there are.
        backend: gloo or nccl.
        store: where the ranks find each other.
        why: says what became of a rank, when sending fails.

    Attributes:
        messages: tensors sent by this rank, by kind.
        bytes: of them.
    """

    def __init__(self, rank: int, size: int, backend: str, store: Any, why: Callable[[], str]) -> None:
        self.rank, self.size, self._why = rank, size, why
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self._sending: list[tuple[Any, Tensor]] = []
        self._coming: list[tuple[list[Any], Callable[[], None]]] = []
        with self._told():
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("tensors", store),  # pyright: ignore[reportPrivateImportUsage]
                rank=rank,
                world_size=size,
                timeout=_PATIENCE,
            )

    def exchange(
        self,
        kind: str,
        sends: Sequence[tuple[Tensor, int]],
        receives: Sequence[tuple[Tensor, int]],
        arrived: Callable[[], None],
    ) -> None:
        """Begin to send tensors to ranks and to receive others from ranks; `finish` waits for what comes.

        Args:
            kind: what they are, for the count.
            sends: (tensor, to); they must not be written to afterwards.
            receives: (contiguous tensor to fill, from).
            arrived: called in `finish`.
        """
        operations = [dist.P2POp(dist.isend, tensor.contiguous(), to) for tensor, to in sends]
        for operation in operations:
            self._count(kind, operation.tensor)
        operations += [dist.P2POp(dist.irecv, tensor, source) for tensor, source in receives]
        if not operations:
            return
        with self._told():
            works = dist.batch_isend_irecv(operations)
        if len(works) == len(operations):
            coming = works[len(sends) :]
            self._sending += [(work, each.tensor) for work, each in zip(works, operations, strict=False)][: len(sends)]
        else:  # NCCL has one work for all of them
            coming = works
            self._sending += [(work, each.tensor) for work in works for each in operations[: len(sends)]]
        if receives:
            self._coming.append((coming, arrived))

    def finish(self) -> None:
        """Wait for what comes, and let go of what has been sent."""
        with self._told():
            for works, arrived in self._coming:
                for work in works:
                    work.wait()
                arrived()
        self._coming = []
        self._sending = [(work, tensor) for work, tensor in self._sending if not work.is_completed()]

    def send(self, kind: str, tensor: Tensor, to: int) -> None:
        """Begin to send a tensor; it must not be written to afterwards."""
        self.exchange(kind, [(tensor, to)], [], lambda: None)
        self._sending = [(work, tensor) for work, tensor in self._sending if not work.is_completed()]

    def receive(self, like: Tensor, source: int) -> Tensor:
        """Wait for a tensor of the shape and kind of `like`."""
        room = torch.empty_like(like, memory_format=torch.contiguous_format)
        self.wait(self.expect(room, source))
        return room

    def expect(self, room: Tensor, source: int) -> list[Any]:
        """Begin to receive into a tensor; `wait` waits for it."""
        with self._told():
            return dist.batch_isend_irecv([dist.P2POp(dist.irecv, room, source)])

    def wait(self, works: Sequence[Any]) -> None:
        """Wait for what `expect` began."""
        with self._told():
            for work in works:
                work.wait()

    def gathered(self, kind: str, part: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """All ranks' parts side by side along `dim`, where they have these sizes."""
        part = part.movedim(dim, 0).contiguous()
        most = max(sizes)
        padded = part
        if len(part) < most:  # gather wants equal parts
            padded = part.new_zeros((most, *part.shape[1:]))
            padded[: len(part)] = part
        rooms = [torch.empty_like(padded) for _ in sizes]
        self._count(kind, padded, self.size - 1)
        with self._told():
            dist.all_gather(rooms, padded)
        return torch.cat([room[:size] for room, size in zip(rooms, sizes, strict=True)]).movedim(0, dim)

    def summed(self, kind: str, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors."""
        total = tensor.contiguous().clone()
        self._count(kind, total, self.size - 1)
        with self._told():
            dist.all_reduce(total)
        return total

    def swapped(self, kind: str, sends: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Give every rank its tensor and get one from each.

        Args:
            kind: what they are, for the count.
            sends: a tensor a rank, by rank.
            shapes: of what comes from each.
        """
        counts = [each.numel() for each in sends]
        flat = torch.cat([each.reshape(-1) for each in sends])
        coming = [torch.Size(shape).numel() for shape in shapes]
        room = flat.new_empty(sum(coming))
        self.messages[kind] += self.size - 1
        self.bytes[kind] += (len(flat) - counts[self.rank]) * flat.itemsize
        with self._told():
            dist.all_to_all_single(room, flat, coming, counts)
        parts = room.split(coming)
        return [part.view(*shape) for part, shape in zip(parts, shapes, strict=True)]

    def close(self) -> None:
        """Let go of the other ranks."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _count(self, kind: str, tensor: Tensor, times: int = 1) -> None:
        self.messages[kind] += times
        self.bytes[kind] += tensor.nbytes * times

    @contextmanager
    def _told(self) -> Generator[None]:
        """What torch.distributed raises as the sentence of who is gone."""
        try:
            yield
        except RuntimeError as error:
            raise LinkLost(self._why()) from error
