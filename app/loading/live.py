"""Live model: loaded once, shared by several live films, and what a live film asks of its stream.

Loading is done once a process; a stream is a few megabytes of memory beside it. Everything here is called on one
thread, the engine's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.config.lengths import Rhythm
from app.loading.engine_request import EngineRequest
from app.loading.held import HeldModel, HeldText, TextFacts
from app.loading.model import rhythm_of, weights_checksum
from app.loading.system import as_data, system_of
from pipelines.memory_plan import MemoryPlan
from pipelines.presets.knobs import apply_knobs, knob_values
from pipelines.types import Chunk, Controls, Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.presets import Preset
    from pipelines.state import Snapshot
    from pipelines.streaming import Stream
    from pipelines.video import Decision, Shown, VideoInput

MOST_FILMS = 4
"""Films at a time, where nobody says how many, on a machine that could play more."""
Knobs = tuple[tuple[str, float], ...]
"""Settings of the preset that a live film changed: names of pipelines.presets.knobs.KNOBS and values."""


class Copy(Protocol):
    """A stream's state, to go back to; `size` in bytes."""

    @property
    def size(self) -> int: ...

    def save(self, path: Path) -> str:
        """Write it whole or not at all, on any thread, and return the file's sha256."""
        ...


class LiveStream(Protocol):
    """One film under way."""

    def next_chunk(self, controls: Controls) -> Chunk: ...

    @property
    def wants(self) -> int | None:
        """How many pictures the next chunk takes while a video is let in; None: none is."""
        ...

    @property
    def levels(self) -> tuple[float, ...]:
        """The timesteps of a chunk's passes."""
        ...

    @property
    def decisions(self) -> list[Decision]:
        """What was decided about the pictures that came last."""
        ...

    @property
    def begun(self) -> bool:
        """Whether it has made anything."""
        ...

    def begin_with(self, frames: NDArray[np.uint8], controls: Controls, parts: Sequence[int]) -> list[Chunk]:
        """Make the first chunks, of `parts` latent frames, of given pictures (pipelines/beginning.py)."""
        ...

    def open_video(self, picture: NDArray[np.uint8], controls: Controls) -> list[Chunk]:
        """Let a video in, which shows this now; returns what was still on its way."""
        ...

    def enter(self, frames: NDArray[np.uint8], controls: Controls, steps: int | None) -> list[Shown]:
        """Let the next pictures in, with at most so many passes; returns what is finished by now."""
        ...

    def leave_video(self, controls: Controls) -> list[Shown]:
        """Go on from words; returns what was still on its way."""
        ...

    def preview(self, controls: Controls) -> Chunk:
        """What `next_chunk` would make; the film does not go on by it."""
        ...

    def begin(self, seed: int, knobs: Knobs) -> None:
        """Start a new film; ValueError for knobs that cannot be."""
        ...

    def set_knobs(self, knobs: Knobs) -> None:
        """Go on under other knobs; ValueError for knobs that cannot be, or that change the shape of the memory."""
        ...

    def copy(self) -> Copy: ...

    def go_back(self, copy: Copy) -> None:
        """Go on from a copy, of this stream or one like it; ValueError if it does not fit."""
        ...


class Holding(Protocol):
    """How a model lies in memory (app/loading/held.py)."""

    @property
    def request(self) -> EngineRequest: ...

    @property
    def plan(self) -> str:
        """The memory plan, as records write it; "" where nobody chose one."""
        ...

    @property
    def can_shrink(self) -> bool:
        """Whether there is a smaller plan."""
        ...

    def shrink(self) -> tuple[str, ...]:
        """Load it anew under the next smaller plan, and return what that trades, a phrase each; no stream may be left.

        Raises:
            NoSmallerPlan: there is none.
        """
        ...

    def hold_as(self, plan: MemoryPlan) -> None:
        """Load it anew under this plan; no stream may be left."""
        ...


@dataclass(frozen=True, slots=True)
class LiveModel:
    """What is loaded, and how to begin a film with it.

    `read_prompt` raises ValueError if the model cannot read a prompt, `check_knobs` for settings that cannot be.
    `text` tells what the model knows and what it makes of a text, on any thread.
    `memory` is the bytes in use on the device; `system` and `knobs` spell the preset out. `lanes` is how many
    chunks are on their way at once; `no_video` says why it takes no pictures; `remembers` is how many latent frames its
    memory holds, `held` how it lies in memory, which can be made smaller where that is known.
    """

    name: str
    checksum: str
    preset: str
    system: Mapping[str, object]
    knobs: Mapping[str, object]
    untrained: bool
    device: str
    threads: int
    fps: float
    height: int
    width: int
    rhythm: Rhythm
    new_stream: Callable[[int, Knobs], LiveStream]
    check_knobs: Callable[[Knobs], object]
    read_prompt: Callable[[Prompt], None]
    text: TextFacts
    memory: Callable[[], int]
    lanes: int = 1
    no_video: str = ""
    remembers: int = 0
    held: Holding | None = None

    @property
    def chunk_frames(self) -> int:
        """Pixel frames of every chunk but the first."""
        return self.rhythm.start_frame(2) - self.rhythm.start_frame(1)

    @property
    def clip_frames(self) -> int:
        """Pixel frames of a clip that a film can begin with: all that its memory holds."""
        return self.rhythm.start_frame(len(self.rhythm.within(self.remembers)))


class LiveOpener(Protocol):
    """Loads a model."""

    def __call__(self, request: EngineRequest) -> LiveModel: ...


def live_threads() -> int:
    """CPU threads for a live film where nobody says how many: one core is left for frames, sockets and the browser.

    A thread of the model that is kept waiting by those makes the others wait, and they wait spinning.
    """
    return max(1, usable_cores() - 1)


def films_at_once(device: str) -> int:
    """How many live films this machine can play at a time, where nobody says it."""
    return min(MOST_FILMS, usable_cores()) if device == "cpu" else MOST_FILMS


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_live(request: EngineRequest) -> LiveModel:
    """Load the model of `request`.

    Raises:
        ValueError, FileNotFoundError, PermissionError: what the engine refuses, in a sentence of its own.
    """
    from pipelines.build import sources_of

    held = HeldModel(request)
    request, first, loaded = held.request, held.first, held.loaded
    height, width = first.state.latents.ring.shape[-2:]
    device = loaded.device
    scale = loaded.components.autoencoder.spatial_scale
    return LiveModel(
        name=loaded.name,
        checksum=weights_checksum(sources_of(request.preset, loaded.components)),
        preset=request.preset.name,
        system=system_of(request.preset),
        knobs={name: as_data(value) for name, value in knob_values(request.preset).items()},
        untrained=request.untrained,
        device=loaded.device,
        threads=loaded.threads,
        fps=first.fps,
        height=height * scale,
        width=width * scale,
        rhythm=rhythm_of(request.preset),
        new_stream=lambda seed, knobs: EngineStream(held.build, request.preset, device, seed, knobs),
        check_knobs=lambda knobs: apply_knobs(request.preset, dict(knobs)),
        read_prompt=held.read,
        text=HeldText(held),
        memory=held.memory,
        lanes=first.engine.policies.plan.lanes,
        no_video=_no_video(first),
        remembers=first.engine.policies.cache.capacity,
        held=held,
    )


@dataclass(frozen=True, slots=True)
class HostCopy:
    """A snapshot kept in the host's memory."""

    snapshot: Snapshot
    size: int

    def save(self, path: Path) -> str:
        from pipelines.snapshots import save_snapshot

        return save_snapshot(self.snapshot, path)


class EngineStream:
    """A `LiveStream` of the engine.

    Args:
        build: makes a stream of a preset and a seed.
        preset: what to stream like, before knobs.
        device: where the stream computes.
        seed: of its noise.
        knobs: settings changed from the beginning.
    """

    def __init__(
        self, build: Callable[[Preset, int], Stream], preset: Preset, device: str, seed: int, knobs: Knobs = ()
    ) -> None:
        self._build, self._preset, self._device = build, preset, device
        self.begin(seed, knobs)

    def begin(self, seed: int, knobs: Knobs) -> None:
        self._stream, self._knobs = self._build(apply_knobs(self._preset, dict(knobs)), seed), knobs
        self._video: VideoInput | None = None

    def set_knobs(self, knobs: Knobs) -> None:
        if knobs == self._knobs:
            return
        changed = self._build(apply_knobs(self._preset, dict(knobs)), self._stream.state.seed)
        self._restore(changed, self._stream.snapshot())
        self._stream, self._knobs = changed, knobs

    def next_chunk(self, controls: Controls) -> Chunk:
        return self._stream.next_chunk(controls)

    @property
    def wants(self) -> int | None:
        return None if self._video is None else self._video.wants

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(getattr(self._stream.engine.policies.plan, "levels", ()))

    @property
    def decisions(self) -> list[Decision]:
        return [] if self._video is None else self._video.decisions

    @property
    def begun(self) -> bool:
        return bool(self._stream.state.cur or self._stream.state.levels)

    def begin_with(self, frames: NDArray[np.uint8], controls: Controls, parts: Sequence[int]) -> list[Chunk]:
        from pipelines.beginning import begin_with

        return begin_with(self._stream, frames, controls, parts)

    def open_video(self, picture: NDArray[np.uint8], controls: Controls) -> list[Chunk]:
        from pipelines.video import open_for_video

        left: list[Chunk] = []
        while (chunk := self._stream.finish(controls)) is not None:
            left.append(chunk)
        self._video = open_for_video(self._stream, picture)
        return left

    def enter(self, frames: NDArray[np.uint8], controls: Controls, steps: int | None) -> list[Shown]:
        assert self._video is not None  # opened first
        self._video.steps = steps
        return self._video.push(frames, controls)

    def leave_video(self, controls: Controls) -> list[Shown]:
        assert self._video is not None  # likewise
        shown = self._video.finish(controls)
        self._stream.close_video()
        self._video = None
        return shown

    def preview(self, controls: Controls) -> Chunk:
        return self._stream.fork().next_chunk(controls)

    def copy(self) -> HostCopy:
        snapshot = self._stream.snapshot("cpu")
        return HostCopy(snapshot, snapshot.nbytes)

    def go_back(self, copy: Copy) -> None:
        assert isinstance(copy, HostCopy)
        self._restore(self._stream, copy.snapshot)

    def _restore(self, stream: Stream, snapshot: Snapshot) -> None:
        """Put a state back, of a film of words or of one that a video is let into."""
        from pipelines.video import VideoInput

        video = bool(snapshot.tree.get("encoder"))
        if video and not stream.state.encoder:
            stream.open_video()
        elif not video:
            stream.close_video()
        stream.restore(snapshot)
        self._video = VideoInput(stream) if video else None


def read_copy(path: Path, sha256: str) -> HostCopy:
    """A copy that was saved; on any thread.

    Raises:
        ValueError: the file is not what it was.
        OSError: it cannot be read.
    """
    from pipelines.snapshots import load_snapshot

    snapshot = load_snapshot(path, "cpu", sha256=sha256)
    return HostCopy(snapshot, snapshot.nbytes)


def _no_video(stream: Stream) -> str:
    """Why a stream takes no pictures; "" if it does."""
    from pipelines.video import check_takes_video

    try:
        check_takes_video(stream)
    except ValueError as error:
        return f"{str(error)[0].upper()}{str(error)[1:]}."
    return ""
