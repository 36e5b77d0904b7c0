"""A stream on several ranks: rank 0 is a stream like any other, and every call on it is carried out by all.

All ranks decide the same integers from what rank 0 tells them: controls, embedded words, what a video's frames begin
from. Tensors meet where the plan says (parallel/). Rank 0 alone has text encoder, autoencoder and pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.types import Entry
from parallel.link import Link
from parallel.parts import joined, part_of
from parallel.plan import ParallelPlan
from parallel.share import Share
from pipelines.clock import Clock
from pipelines.engine import Engine
from pipelines.state import Latents, Snapshot
from pipelines.streaming import Stream
from pipelines.tree import copied, moved
from pipelines.types import Controls, Prompt, Start
from pipelines.video_state import VideoState

_ELSEWHERE: Mapping[str, Any] = {"decoder": (), "encoder": (), "video": VideoState()}
"""State that rank 0 alone has."""


def _alike(shares: Sequence[Share]) -> bool:
    """Whether every rank has the whole memory."""
    return all(share == shares[0] for share in shares)


class Calls(Protocol):
    """What rank 0 tells the others; parallel.channel.Leader is such."""

    def tell(self, message: object) -> None: ...

    def tell_each(self, messages: Sequence[object]) -> None: ...

    def heard(self) -> list[Any]: ...


class ToldText:
    """Embeddings that rank 0 made: a rank without a text encoder knows those it was told."""

    def __init__(self) -> None:
        self.known: dict[Prompt, Tensor] = {}

    def embed(self, prompt: Prompt) -> Tensor:
        return self.known[prompt]


class LeadStream(Stream):
    """Rank 0's stream.

    Args:
        engine: weights and policies.
        plan: how the stream is spread.
        shares: what each rank holds.
        link: to the others.
        calls: what the others are told.
        settings: height, width, seed and the like, as of `Stream`.
    """

    def __init__(
        self,
        engine: Engine,
        plan: ParallelPlan,
        shares: Sequence[Share],
        link: Link,
        calls: Calls,
        **settings: Any,
    ) -> None:
        self._calls: Calls | None = None  # what is made of our own accord the others make too
        super().__init__(engine, share=shares[0], **settings)
        plan.connect(self, shares[0], shares, link)
        self._calls, self._shares = calls, shares
        calls.tell(("text", {"": engine.conditioner.embed("").cpu()}))

    def _denoise(self, controls: Controls, entry: Entry | None, start: Start | None, clock: Clock) -> range:
        self._tell("denoise", controls, entry, start, self._words(controls))
        return super()._denoise(controls, entry, start, clock)

    def prefill(self, latents: Tensor, controls: Controls) -> NDArray[np.uint8] | None:
        if not self.state.cur:
            self._tell("prefill", latents.cpu(), controls, self._words(controls))
        return super().prefill(latents, controls)

    def lead_in(self, latents: Tensor) -> int:
        raise ValueError("a film that refers to a picture is made by one process: give --parallel single")

    def open_video(self) -> None:
        super().open_video()
        self._tell("video", True)

    def close_video(self) -> None:
        super().close_video()
        self._tell("video", False)

    def snapshot(self, device: torch.device | str | None = None) -> Snapshot:
        """A copy of all ranks' state, the same as one process would have."""
        alike = _alike(self._shares)
        if alike and self.handover is None:
            return super().snapshot(device)
        assert self._calls is not None  # from the beginning on
        self._tell("part")
        own = super().snapshot(device).tree
        others = self._calls.heard()
        kv = own["kv"] if alike else joined([own["kv"], *(moved(part["kv"], "cpu") for part in others)], self._shares)
        flight = self._in_flight([own["flight"]["ring"], *(part["flight"] for part in others)])
        return Snapshot({**own, "kv": kv, "flight": {"ring": flight}})

    def restore(self, snapshot: Snapshot) -> None:
        tree, (first, *others) = snapshot.tree, self._shares
        super().restore(Snapshot({**tree, "kv": part_of(tree["kv"], first)}))
        assert self._calls is not None
        base = moved({**tree, **_ELSEWHERE}, "cpu")
        parts = [{**base, "kv": copied(part_of(base["kv"], share))} for share in others]
        self._calls.tell_each([None, *(("restore", part) for part in parts)])

    def fork(self) -> Stream:
        raise ValueError("a stream that is spread over ranks has no twin: give --parallel single for that")

    def _in_flight(self, rings: Sequence[Tensor]) -> Tensor:
        """Frames in flight, each from the rank that has it."""
        ring, state = rings[0], self.state
        if self.handover is not None:
            for frame, level in enumerate(state.levels, state.cur):
                at = frame % ring.shape[1]
                ring[:, at].copy_(rings[self.handover.frame_holder(frame, level, state.scene)][:, at])
        return ring

    def _words(self, controls: Controls) -> Mapping[Prompt, Tensor]:
        """What the others need to know of a prompt that is new to them."""
        if controls.prompt == self.state.text.prompt:
            return {}
        return {controls.prompt: self.engine.conditioner.embed(controls.prompt).cpu()}

    def _tell(self, *message: object) -> None:
        if self._calls is not None:
            self._calls.tell(message)


class FollowStream(Stream):
    """Another rank's stream: it makes no pictures.

    Args:
        engine: weights and policies; without an autoencoder.
        plan: how the stream is spread.
        shares: what each rank holds.
        link: to the others.
        settings: as of `Stream`.
    """

    def __init__(
        self, engine: Engine, plan: ParallelPlan, shares: Sequence[Share], link: Link, **settings: Any
    ) -> None:
        super().__init__(engine, share=shares[link.rank], **settings)
        self._shares = shares
        plan.connect(self, shares[link.rank], shares, link)

    @torch.inference_mode()
    def carry_out(self, message: tuple[Any, ...]) -> Any:
        """Do what rank 0 tells; returns what it is to be told back, None if nothing."""
        match message:
            case ("text", known):
                self._learn(known)
            case ("denoise", controls, entry, start, known):
                self._learn(known)
                emitted = self._denoise(controls, entry, start, Clock())
                if emitted:
                    self._emitted(emitted)
            case ("prefill", latents, controls, known):
                self._learn(known)
                self.prefill(latents, controls)
            case ("video", opened):
                (self.open_video if opened else self.close_video)()
            case ("part",):
                self._passes.settle()
                kv = () if _alike(self._shares) else tuple(copied(store) for store in self.state.kv)
                return {"kv": moved(kv, "cpu"), "flight": self.state.flight.ring.cpu()}
            case ("restore", tree):
                self.restore(Snapshot(tree))
            case _:
                raise ValueError(f"rank 0 said {message[0]!r}, which this version does not know: use one version")
        return None

    def open_video(self) -> None:
        self.state.origin = [Latents(self._frame, self.state.flight.size, self._device, self._dtype)]

    def _learn(self, known: Mapping[Prompt, Tensor]) -> None:
        conditioner: Any = self.engine.conditioner
        kept = {"": conditioner.known[""]} if "" in conditioner.known else {}
        if known:
            conditioner.known = kept | {prompt: text.to(self._device) for prompt, text in known.items()}
