"""Video in, video out: pictures enter a stream chunk by chunk, and as many come back as went in.

The host decides what happens to a chunk from its pixels, before anything goes to the device: whether it is worked on
at all (schedulers/similarity.py), and with how much noise (schedulers/motion.py). All it goes on from is part of the
stream's state, so a snapshot in the middle of a video is as good as anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.streaming import Stream
from pipelines.types import Chunk, Controls, Start, Transition, pixel_range
from pipelines.video_state import VideoState
from schedulers.changes import change, motion
from schedulers.noise import Address, uniform

_QUIET_KEPT = 32
"""Chunks whose quiet blocks tell what the sensor adds."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a controller decided about the chunk whose first frame is `frame`, and from what: a line for a log.

    `kind` is `noise` (share, level, steps, motion), `skip` (change, probability, in_a_row), `scene` (cosine: the
    pictures are of something else), `flush` (chunks) or `end` (frames, repeated ones that filled up the last chunk).
    """

    frame: int
    kind: str
    data: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Shown:
    """A piece of the film that leaves.

    Attributes:
        frames: numbers of its pictures, counted from the first one of the film; pieces follow each other without gaps.
        pixels: uint8 RGB [T, H, W, 3].
        chunk: what was made, with times and hash; None where the last picture stands still for a skipped chunk.
    """

    frames: range
    pixels: NDArray[np.uint8]
    chunk: Chunk | None


def check_takes_video(stream: Stream) -> None:
    """Raise ValueError where a stream's plan cannot begin with pictures."""
    _ = stream.entering  # refuses plans that take none
    if getattr(stream.engine.policies.plan, "step", None) == "unipc":
        raise ValueError("unipc cannot begin between its own levels, as a video does: choose renoise or euler")


def open_for_video(stream: Stream, picture: NDArray[np.uint8]) -> VideoInput:
    """Let a video in from the film's next frames on, whatever the film was made of before.

    What was remembered stays, so that the picture goes over into the video's. In a film that has begun every latent
    frame stands for four pictures, and an autoencoder makes its first one of a single one: it sees `picture` before
    the video's own, as if that had stood still.

    Args:
        stream: with nothing in flight, which `Stream.finish` sees to.
        picture: what the video shows about now, uint8 RGB [H, W, 3] of the film's size.

    Raises:
        ValueError: something is in flight, or the stream takes no video; nothing has changed.
    """
    if stream.state.levels:
        raise ValueError("chunks are on their way, and a video enters behind them: finish them first")
    check_takes_video(stream)
    stream.open_video()
    stream.state.video = VideoState(at=stream.state.cur)
    if stream.state.cur:
        encoded(stream, picture[None])
    return VideoInput(stream)


@torch.inference_mode()
def encoded(stream: Stream, frames: NDArray[np.uint8]) -> torch.Tensor:
    """The next pictures of a stream that is open for video, uint8 RGB [T, H, W, 3], as latents [1, F, C, h, w]."""
    state, engine = stream.state, stream.engine
    assert engine.autoencoder is not None
    device, dtype = engine.transformer.expects
    pixels = torch.as_tensor(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2)[None] / 255
    latents, state.encoder = engine.autoencoder.encode_stream(pixels, state.encoder)
    return (engine.autoencoder.unnormalised(latents) if engine.policies.video.raw else latents).to(dtype)


class VideoInput:
    """A video's way through a stream that is open for it and has just begun, or was restored.

    A film that has begun from words takes a video too: see `open_for_video`.

    Args:
        stream: made with `video=True`; nothing but this object makes chunks of it.

    Attributes:
        steps: most passes for the chunks to come; None takes all the preset's. For a controller of latency.
        decisions: what was decided in the last call of `push` or `finish`.

    Raises:
        ValueError: the stream is not open for video, was not opened where it stands, or its plan takes no pictures.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream, state = stream, stream.state
        self.steps: int | None = None
        self.decisions: list[Decision] = []
        self._first = 0
        if not state.encoder:
            raise ValueError("the stream is not open for video: make it with video=True")
        if state.cur + len(state.levels) != state.video.at + self._encoded():
            raise ValueError("the film has begun without a video: open a new stream for it, or open it for one")
        check_takes_video(stream)

    @property
    def wants(self) -> int:
        """How many frames the next `push` takes."""
        frames = self.stream.entering
        return pixel_range(frames[-1]).stop - pixel_range(frames[0]).start

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        autoencoder = self.stream.engine.autoencoder
        assert autoencoder is not None  # asked for by the stream
        height, width = self.stream.state.latents.ring.shape[-2:]
        return height * autoencoder.spatial_scale, width * autoencoder.spatial_scale

    def push(self, frames: NDArray[np.uint8], controls: Controls) -> list[Shown]:
        """Hand in the next frames and get back what is finished by now, none or more pieces.

        Args:
            frames: uint8 RGB [T, H, W, 3] of `size`, T = `wants`; fewer (1 or more) are the end of the video.
            controls: prompt, transition, guidance and strength of this chunk.

        Raises:
            ValueError: frames of another size, kind or number, or after the end; nothing has changed.
        """
        self._check(frames)
        self.decisions, self._first = [], self.stream.state.video.entered
        shown: list[Shown] = []
        text = self.stream.state.text
        if controls.transition.kind == "cut" and text.version and controls.prompt != text.prompt:
            before = replace(controls, prompt=text.prompt, transition=Transition("keep"))
            shown += self._flush(before)  # a cut would drop what is on its way
        count, wanted = len(frames), self.wants
        video = self.stream.state.video
        if count < wanted:
            frames = np.concatenate([frames, np.repeat(frames[-1:], wanted - count, axis=0)])
            self._decide("end", frames=wanted - count)
        self.stream.state.video = video = replace(video, entered=video.entered + count, ended=count < wanted)
        if self._skips(frames):
            return [*shown, *self._repeat(count, controls)]
        chunk = self.stream.enter(controls, self._start(frames, controls.strength))
        reference = frames[-1].copy()
        self.stream.state.video = replace(self.stream.state.video, reference=reference, skipped=0)
        return shown if chunk is None else [*shown, self._show(chunk)]

    def finish(self, controls: Controls) -> list[Shown]:
        """Finish what is on its way at the end of a video: as many frames have then come back as went in."""
        self.decisions = []
        return self._flush(controls)

    # ------------------------------------------------------------------ decisions

    def _skips(self, frames: NDArray[np.uint8]) -> bool:
        """Whether the chunk shows what the last one did."""
        video, policy = self.stream.state.video, self.stream.engine.policies.video.similarity
        if policy is None or video.reference is None or video.picture is None:
            return False
        changed = change(video.reference, frames)
        probability = policy.probability(changed, policy.floor(video.quiet))
        address = Address(self.stream.state.seed, self.stream.state.stream, self._first, 0.0, "skip")
        self.stream.state.video = replace(video, quiet=(*video.quiet, changed.quiet)[-_QUIET_KEPT:])
        if changed.cosine < policy.cut:
            self._decide("scene", cosine=changed.cosine)
            return False
        skips = policy.skips(probability, video.skipped, uniform(address))
        if skips:
            self._decide("skip", change=changed.most, probability=probability, in_a_row=video.skipped + 1)
        return skips

    def _start(self, frames: NDArray[np.uint8], strength: float | None) -> Start:
        """What the chunk begins from: its latents, how much noise, and the level that the model is told."""
        state, policies = self.stream.state, self.stream.engine.policies
        noise, video = policies.video.noise, state.video
        noise = noise if strength is None else replace(noise, still=strength)
        seen = frames if video.reference is None else np.concatenate([video.reference[None], frames])
        moved = motion(seen) if len(seen) > 1 else 0.0
        share = noise.share(video.share, moved)
        level = float(min(max(noise.level(share), 1), 1000))
        state.video = replace(video, share=share)
        self._decide("noise", share=share, level=level, motion=moved, **({"steps": self.steps} if self.steps else {}))
        # The model was tuned to be told another level than it gets, or it is told the one it gets.
        scale = share if noise.lag else policies.schedule.sigma(level)
        return Start(encoded(self.stream, frames), scale, level, self.steps)

    def _decide(self, kind: str, **data: float) -> None:
        self.decisions.append(Decision(self._first, kind, data))

    # ------------------------------------------------------------------ pictures

    def _flush(self, controls: Controls) -> list[Shown]:
        shown: list[Shown] = []
        while (chunk := self.stream.finish(controls)) is not None:
            shown.append(self._show(chunk))
        return shown

    def _repeat(self, count: int, controls: Controls) -> list[Shown]:
        """The last picture stands for a skipped chunk; after some of them what is on its way comes first."""
        policy, video = self.stream.engine.policies.video.similarity, self.stream.state.video
        assert policy is not None
        self.stream.state.video = replace(video, skipped=video.skipped + 1)
        shown: list[Shown] = []
        if video.skipped + 1 == policy.flush:
            shown = self._flush(controls)
            self._decide("flush", chunks=len(shown))
        picture = self.stream.state.video.picture
        assert picture is not None  # nothing is skipped before something was shown
        return [*shown, self._out(np.repeat(picture[None], count, axis=0), None)]

    def _show(self, chunk: Chunk) -> Shown:
        assert chunk.pixels is not None  # every chunk of a video is decoded
        video = self.stream.state.video
        return self._out(chunk.pixels[: video.entered - video.shown], chunk)

    def _out(self, pixels: NDArray[np.uint8], chunk: Chunk | None) -> Shown:
        video = self.stream.state.video
        stop = video.shown + len(pixels)
        self.stream.state.video = replace(video, shown=stop, picture=pixels[-1].copy())
        return Shown(range(video.shown, stop), pixels, chunk)

    # ------------------------------------------------------------------ checks

    def _encoded(self) -> int:
        """Latent frames that the encoder has made of the video: one of the first picture of a film, one of every four
        later ones; none of the picture before a video that begins later."""
        seen = int(self.stream.state.encoder[0])  # on the host
        return 0 if not seen else (0 if self.stream.state.video.at else 1) + (seen - 1) // 4

    def _check(self, frames: NDArray[np.uint8]) -> None:
        height, width = self.size
        if self.stream.state.video.ended:
            raise ValueError("the video has ended with a chunk that was not full: open a new stream for more of it")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
            raise ValueError(
                f"frames of a video are uint8 RGB [T, {height}, {width}, 3], got {frames.dtype} {list(frames.shape)}"
            )
        if not 1 <= len(frames) <= self.wants:
            raise ValueError(f"the next chunk takes {self.wants} frames (fewer at the end), got {len(frames)}")
