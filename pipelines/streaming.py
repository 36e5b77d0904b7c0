"""The only loop: one chunk of film after another, in five numbered stages.

Policies answer in integers, the stores and the model work on tensors, and this file is where they meet. All it knows
between two calls is its StreamState; weights, policies and noise do not change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.types import Action, Blend, Drop, Entry, Pass, Replay, View, clean_row
from models.transformer import LocalRunner, Runner
from parallel.share import Share
from pipelines.allocate import allocated
from pipelines.clock import Clock
from pipelines.drift import measure
from pipelines.engine import Engine
from pipelines.lead_in import lead_in
from pipelines.passes import Handover, Observer, Passes
from pipelines.state import Latents, Snapshot
from pipelines.types import Chunk, Controls, Prompt, Start, pixel_range, prompt_text
from pipelines.video_state import VideoState
from schedulers.noise import AddressedNoise, NoiseSource

Camera = Callable[[range], Start]
"""Asked what latent frames begin from, when they enter."""

_SWITCHES_KEPT = 32


class Stream:
    """One endless film.

    Args:
        engine: weights and policies.
        height: of a latent frame.
        width: of a latent frame.
        seed: of all its noise.
        stream: number of the stream, part of every noise address; a batch counts on from it.
        batch: films generated side by side under the same prompt (decoding needs 1).
        noise: where noise comes from; addressed unless a trace is replayed.
        observer: sees every pass.
        runner: takes rows through the layers; in this process if None.
        share: what of its memory lies in this process; all if None.
        video: it is made of a video, and remembers what that takes (pipelines/video.py).

    Attributes:
        on_prompt: told every prompt when it begins, None: nobody is.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        height: int,
        width: int,
        seed: int = 0,
        stream: int = 0,
        batch: int = 1,
        noise: NoiseSource | None = None,
        observer: Observer | None = None,
        runner: Runner | None = None,
        share: Share | None = None,
        video: bool = False,
    ) -> None:
        self.engine, self.fps = engine, engine.fps
        self.on_prompt: Callable[[Prompt], None] | None = None
        self._device, self._dtype = engine.transformer.expects
        self._frame = (batch, int(engine.transformer.config["in_channels"]), height, width)
        self.share, self.state, buffers = allocated(engine, self._frame, share, seed=seed, stream=stream)
        if video:
            self.open_video()
        runner = runner or LocalRunner(engine.transformer)
        self._passes = Passes(engine, self.state, buffers, noise or AddressedNoise(), observer, runner, self.share)

    @property
    def runner(self) -> Runner:
        """What takes rows through the layers; a parallel plan puts its own here, between two chunks."""
        return self._passes.runner

    @runner.setter
    def runner(self, runner: Runner) -> None:
        self._passes.runner = runner

    @property
    def handover(self) -> Handover | None:
        """What takes latents from noise level to noise level where these lie on several ranks; None: nothing does."""
        return self._passes.handover

    @handover.setter
    def handover(self, handover: Handover | None) -> None:
        self._passes.handover = handover

    # ------------------------------------------------------------------ the loop

    @torch.inference_mode()
    def next_chunk(self, controls: Controls, *, decode: bool = True, camera: Camera | None = None) -> Chunk:
        """Make the next chunk of the film.

        Args:
            controls: prompt and transition, read now and not again until the next chunk.
            decode: make pixels; without, the chunk carries none and its hash is of the latents. All or no chunks of
                a film are decoded.
            camera: asked, when latent frames enter, what they begin from; without it they begin from noise alone.
        """
        chunk = self._make(controls, None, None, decode) if camera is None else None
        while chunk is None:
            assert camera is not None  # without one the plan goes on until a chunk is finished
            chunk = self.enter(controls, camera(self.entering), decode=decode)
        return chunk

    @property
    def entering(self) -> range:
        """The latent frames that enter next; ValueError where they cannot be of a video."""
        frames = self.engine.policies.plan.entering(self._view(None))
        if not frames:
            raise ValueError(
                "a joint window or a cascade of chunks begins as pure noise and takes no video: choose a preset with "
                "the plan serial or stream-batch, and no cascade"
            )
        return frames

    @torch.inference_mode()
    def enter(self, controls: Controls, start: Start, *, decode: bool = True) -> Chunk | None:
        """Let the latent frames `entering` enter, and make the chunk that is finished with them, if one is.

        Args:
            controls: as in `next_chunk`.
            start: what the frames begin from.
            decode: as in `next_chunk`.
        """
        if start.latents.ndim == 5 and start.latents.shape[1] != len(self.entering):
            raise ValueError(f"{len(self.entering)} latent frames enter, not {start.latents.shape[1]}")
        return self._make(controls, Entry(start.level, start.steps), start, decode)

    @torch.inference_mode()
    def finish(self, controls: Controls, *, decode: bool = True) -> Chunk | None:
        """Finish the oldest chunk in flight while nothing enters; None if there is none.

        Args:
            controls: as in `next_chunk`.
            decode: as in `next_chunk`.
        """
        return self._make(controls, Entry(), None, decode)

    def _view(self, entry: Entry | None) -> View:
        state = self.state
        return View(state.cur, state.text.version, state.levels, state.switches, state.scene, entry)

    def _make(self, controls: Controls, entry: Entry | None, start: Start | None, decode: bool) -> Chunk | None:
        """The five stages; without an emission they end after the third."""
        if not hasattr(controls, "transition"):
            raise TypeError('a stream takes Controls, not a text: write stream.next_chunk(Controls("a red ball"))')
        if decode and (self.engine.autoencoder is None or self._frame[0] != 1):
            raise ValueError("decoding needs an autoencoder and a batch of 1: call next_chunk(decode=False)")
        if decode and int(self.state.decoder[0]) != self.state.cur:  # the decoder's count of frames, on the host
            raise ValueError(
                f"the decoder has seen {int(self.state.decoder[0])} of {self.state.cur} latent frames, and its memory "
                "cannot skip any: decode every chunk of a film, or none"
            )
        state, clock = self.state, Clock()
        emitted = self._denoise(controls, entry, start, clock)
        if not emitted:
            return None
        clean = state.latents.get(emitted)

        # 5. Decode.
        pixels = self._decode(clean) if decode else None
        clock.lap("decode")

        drift, switched = None, state.switches[-1:] == (state.cur,)  # since the chunk before was finished
        if pixels is not None:
            state.drift, drift = measure(
                state.drift, pixels, fps=self.fps, switched=switched, spreads=self.engine.drift_spreads
            )
        content = clean.float().cpu().numpy() if pixels is None else pixels
        chunk = Chunk(
            index=state.chunk,
            epoch=state.epoch,
            latent=emitted,
            pixel=range(pixel_range(emitted[0]).start, pixel_range(emitted[-1]).stop),
            prompt=prompt_text(controls.prompt),
            pixels=pixels,
            sha256=hashlib.sha256(content.tobytes()).hexdigest(),
            seconds={**clock.seconds, "model": self._passes.model_seconds},
            drift=drift,
            reused=self._passes.reused,
        )
        self._emitted(emitted)
        return chunk

    def _denoise(self, controls: Controls, entry: Entry | None, start: Start | None, clock: Clock) -> range:
        """Stages 1 to 4; returns the latent frames that are finished pictures, none before a chunk is."""
        state = self.state
        self._passes.begin_chunk(controls.guidance_scale)

        # 1. Conditioning: a new prompt changes the text, and the memory as the transition says.
        self._condition(controls)
        clock.lap("conditioning")

        # 2. Plan: which passes make this chunk.
        passes = self.engine.policies.plan.passes(self._view(entry))
        clock.lap("plan")

        # 3. Denoise and 4. remember: passes in the plan's order, from fresh noise to the clean pass that memory keeps.
        emitted = range(state.cur, state.cur)
        for work in passes:
            self._passes.run(work, start)
            emitted = next((row.emit for row in work.rows if row.emit), work.leave or emitted)
            clock.lap("remember" if work.kind == "clean" else "denoise")
        return emitted

    def _emitted(self, frames: range) -> None:
        """A chunk has left: what is in flight begins behind it."""
        state = self.state
        state.levels = state.levels[frames.stop - state.cur :]
        state.cur, state.chunk = frames.stop, state.chunk + 1

    def chunks(self, controls: Callable[[], Controls]) -> Iterator[Chunk]:
        """The film: asks for controls before every chunk and never ends by itself."""
        while True:
            yield self.next_chunk(controls())

    @torch.inference_mode()
    def prefill(self, latents: Tensor, controls: Controls) -> NDArray[np.uint8] | None:
        """Begin with given clean latents [B, F, C, H, W] (image or video to video); only before the first chunk.

        Returns:
            What the decoder makes of them, uint8 RGB [T, H, W, 3] of the first of a batch; None without one.
        """
        state, plan = self.state, self.engine.policies.plan
        if state.cur:
            raise ValueError(f"the film has begun ({state.cur} latent frames): prefill a new stream instead")
        self._condition(controls)
        shown: list[NDArray[np.uint8]] = []
        while state.cur < latents.shape[1]:
            rows = plan.passes(View(state.cur, state.text.version))[0].rows
            frames = range(state.cur, min(rows[0].frames.stop, latents.shape[1]))
            given = latents[:, frames.start : frames.stop].to(self._device, self._dtype)
            for lane in self.share.lanes:
                # what is given is clean, whatever the memory pass says
                row = clean_row(frames, 0.0, "given", state.text.version, lane=lane)
                self._passes.run_rows(Pass("prefill", (row,)), [(row, given)])
            state.latents.put(frames, given)
            if self.engine.autoencoder is not None:  # the pictures to come go on from these
                shown.append(self._decode(given))
            state.cur = frames.stop
        return np.concatenate(shown) if shown else None

    @torch.inference_mode()
    def lead_in(self, latents: Tensor) -> int:
        """Make the chunk between a reference that was prefilled and the film, from its latents; nobody sees it.

        Returns:
            How many latent frames lie before the film's first one now.

        Raises:
            ValueError: this plan takes no reference.
        """
        made = lead_in(self.engine, self.state, self._passes, latents)
        if self.engine.autoencoder is not None:
            self._decode(made)
        self.state.cur += made.shape[1]
        return self.state.cur

    # ------------------------------------------------------------------ state

    def open_video(self) -> None:
        """Make room for what a video takes, from its beginning on; one that was open is forgotten."""
        state, autoencoder = self.state, self.engine.autoencoder
        if autoencoder is None:
            raise ValueError("a video enters through an autoencoder, and this engine has none")
        batch, _, height, width = self._frame
        state.encoder = autoencoder.init_encode_state(batch, height, width, self._device)
        state.origin = [Latents(self._frame, state.flight.size, self._device, self._dtype)]
        state.video = VideoState()

    def close_video(self) -> None:
        """Let go of all that; the film goes on from words. What is in flight has to be finished first."""
        self.state.encoder, self.state.origin, self.state.video, self.state.scale = [], [], VideoState(), None

    def snapshot(self, device: torch.device | str | None = None) -> Snapshot:
        """A copy of all state, to go back to; it lies on `device`, or where the state does, and never twice."""
        with torch.inference_mode():
            self._passes.settle()
        return self.state.snapshot(device)

    @torch.inference_mode()
    def restore(self, snapshot: Snapshot) -> None:
        """Go back; the next chunk is the one that followed the snapshot, bit for bit."""
        self.state.restore(snapshot)
        self._passes.drop()
        self._passes.texts.reset()

    def fork(self) -> Stream:
        """A second stream that begins where this one stands and then goes its own way."""
        batch, _, height, width = self._frame
        passes = self._passes
        twin = Stream(
            self.engine,
            height=height,
            width=width,
            batch=batch,
            noise=passes.noise,
            observer=passes.observer,
            runner=passes.runner,
            share=self.share,
            video=bool(self.state.encoder),
        )
        twin.restore(self.snapshot())
        return twin

    # ------------------------------------------------------------------ stages

    def _condition(self, controls: Controls) -> None:
        """Stage 1: bring the text up to date and the memory in line with it."""
        state, before = self.state, self.state.text
        actions: list[Action] = []
        arrived = False
        if controls.prompt != before.prompt:
            if self.on_prompt is not None:
                self.on_prompt(controls.prompt)
            target = self.engine.conditioner.embed(controls.prompt).to(self._device, self._dtype)
            state.text = before.change(controls.prompt, target)
            if before.version == 0:  # the film begins: nothing to switch from
                return
            state.switches = (*state.switches, state.cur)[-_SWITCHES_KEPT:]
            actions = self._transition(controls, before.version)
            blend = next((action for action in actions if isinstance(action, Blend)), None)
            if blend is not None:
                state.text = before.begin_blend(controls.prompt, target, blend.chunks)
        if state.text.blend:
            state.text, arrived = state.text.advance()
        if state.text.version != before.version and self.engine.policies.layers.of_prompt:
            for left in state.residuals:  # features of other words
                left.reset()
        if arrived:
            actions = self._plan_switch(before.version)
        for action in actions:
            self._carry_out(action)

    def _transition(self, controls: Controls, old: int) -> list[Action]:
        """A transition, as people name it, in actions on the memory."""
        kind = controls.transition.kind
        if kind == "cut":
            return [Drop()]
        if kind == "soft":
            return [Blend(controls.transition.chunks)]
        return self._plan_switch(old) if kind == "recache" else []

    def _plan_switch(self, old: int) -> list[Action]:
        state = self.state
        slots = state.kv[0].slots(state.cur, state.switches)
        return self.engine.policies.switch.plan(slots, old, state.text.version)

    def _carry_out(self, action: Action) -> None:
        state = self.state
        if isinstance(action, Blend):
            return  # the text moves, the memory waits
        if isinstance(action, Drop):
            for held in (*state.kv, *state.residuals):
                held.reset()
            state.epoch, state.scene, state.levels = state.epoch + 1, state.cur, ()
            # The decoder goes on counting frames, but must not bleed the old picture into the new one.
            state.decoder = [torch.zeros_like(t) if t.is_floating_point() else t for t in state.decoder]
        elif isinstance(action, Replay):
            row = clean_row(action.frames, self.engine.policies.clean_level, "stored", state.text.version)
            self._passes.run(Pass("replay", (row,)))
        else:
            for store in state.kv:
                store.apply(action)

    def _decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Stage 5: uint8 RGB [T, H, W, 3]."""
        assert self.engine.autoencoder is not None  # next_chunk asks before it begins
        pixels, self.state.decoder = self.engine.autoencoder.decode_stream(latents, self.state.decoder)
        moved = pixels[0].permute(0, 2, 3, 1).contiguous()  # before they are bytes: single bytes move slowly
        return moved.mul_(255).round_().to(torch.uint8).cpu().numpy()
