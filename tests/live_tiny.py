"""A live engine over the tiny networks, on a clock that the tests turn; frames are shown while chunks are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from app.config.lengths import Rhythm
from app.live.admission import Request
from app.live.engine import LiveEngine
from app.live.messages import Applied, Problem, PromptUpdate, WireTransition
from app.live.player import LiveFrame
from app.live.session import Session
from app.loading.live import EngineStream, Knobs, LiveModel
from pipelines.engine import Engine
from pipelines.presets import PRESETS, Preset
from pipelines.streaming import Stream
from pipelines.types import Chunk, Controls, Prompt
from pipelines.video import Shown
from tests.tiny import tiny_autoencoder, tiny_engine, tiny_stream, tiny_transformer

Kind = TypeVar("Kind", bound=BaseModel)
FPS, CHUNK_FRAMES = 16, 12
CHUNK_SECONDS = 0.25
"""How long a chunk takes on the clock; the film needs one every 0.75 s."""


class Clock:
    """Seconds that pass when `sleep` is called; `during` does what is due, and says when the next thing is."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.during: Callable[[], float | None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float, woken: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, until somebody is woken."""
        end = self.now + seconds
        while self.now < end:
            due = self.during()
            if woken():
                return
            self.now = end if due is None else min(end, max(due, self.now))
        self.during()


class SlowStream(EngineStream):
    """Takes time, and breaks when told to."""

    model: TinyModel

    def next_chunk(self, controls: Controls) -> Chunk:
        if self.model.broken is not None:
            raise self.model.broken
        self.model.made += 1
        self.model.clock.sleep(self.model.chunk_seconds)
        # On this clock, on which nothing but sleep takes time.
        return replace(super().next_chunk(controls), seconds={"denoise": self.model.chunk_seconds})

    def enter(self, frames: NDArray[np.uint8], controls: Controls, steps: int | None) -> list[Shown]:
        self.model.made += 1
        self.model.clock.sleep(self.model.chunk_seconds)
        return super().enter(frames, controls, steps)


@cache
def _networks() -> Engine:
    """One layer and one pass a chunk: these tests play minutes of film, and ask when it comes, not what it shows."""
    return tiny_engine(tiny_transformer(num_layers=1), levels=(1000.0,), autoencoder=tiny_autoencoder())


class TinyModel:
    """Opens a model of random weights."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.chunk_seconds, self.made = clock, CHUNK_SECONDS, 0
        self.broken: Exception | None = None

    def _build(self, preset: Preset, seed: int) -> Stream:
        return tiny_stream(_networks(), seed=seed)

    def _new(self, seed: int, knobs: Knobs) -> SlowStream:
        stream = SlowStream(self._build, PRESETS["embedded"], "cpu", seed, knobs)
        stream.model = self
        return stream

    def _read(self, prompt: Prompt) -> None:
        if "xyzzy" in str(prompt):
            raise ValueError("the model cannot read xyzzy: use other words")

    def __call__(self, request: Any = None) -> LiveModel:
        return LiveModel(
            name="embedded",
            checksum="0" * 64,
            preset="embedded",
            system={},
            knobs={"num_inference_steps": 4, "sink_size": 3, "local_attn_size": 12},
            untrained=False,
            device="cpu",
            threads=1,
            fps=FPS,
            height=32,
            width=48,
            rhythm=Rhythm(3, 3),
            new_stream=self._new,
            check_knobs=lambda knobs: None,
            read_prompt=self._read,
            text=TinyText(),
            memory=lambda: 2**20,
            remembers=12,
        )


class TinyText:
    """Knows every word but one."""

    knows: Mapping[str, Sequence[str]] = {"colours": ("red",), "words": ("red", "blue")}

    def unknown_words(self, prompt: str) -> dict[str, tuple[str, ...]]:
        return {word: ("red",) for word in prompt.split() if word == "rde"}

    def instead(self, prompt: str, unknown: Mapping[str, Sequence[str]]) -> str:
        return prompt.replace("rde", "red")


class Watcher:
    """A viewer that draws everything at once, unless `credit` is set to 0."""

    def __init__(self, clock: Clock, *, driver: bool = True) -> None:
        self.clock, self.driver, self.credit = clock, driver, 3
        self.frames: list[LiveFrame] = []
        self.times: list[float] = []
        self.told: list[BaseModel] = []

    def offer(self, frame: LiveFrame) -> None:
        self.frames.append(frame)
        self.times.append(self.clock.now)

    def tell(self, event: BaseModel) -> None:
        self.told.append(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """What it was told of one kind."""
        return [event for event in self.told if isinstance(event, kind)]

    def applied(self, name: str) -> Applied | None:
        """The receipt of a prompt."""
        return next((event for event in self.of(Applied) if event.id == name), None)


class Stage:
    """An engine whose two threads are turned by hand."""

    def __init__(self, folder: Path, clock: Clock | None = None, **settings: Any) -> None:
        self.clock = clock or Clock()
        self.model = TinyModel(self.clock)
        request: Any = SimpleNamespace()
        self.engine = LiveEngine(
            request,
            folder=folder,
            prompt="a red fox runs",
            opener=self.model,
            clock=self.clock,
            **{"seed": 5, **settings},
        )
        self.disk_hangs = False
        self.engine.load()
        self.clock.during = self._show

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        for session in self.engine._all():
            session.end("the test is over")

    def _show(self) -> float | None:
        return self.engine._encode.step(self.clock.now)

    def open(self, name: str | None = None) -> Session:
        """A session, as the engine thread would admit it once the disk has told what there is of it."""
        request = Request(name)
        session = self.engine._session_for(request, 1)
        if session is None:
            assert self.engine._disk.idle(20)
            self.engine._admit()
            session = request.wait()
        return session

    def settle(self) -> None:
        """Let the threads beside the engine's come to their end: what is to be written is written."""
        assert self.engine._saves.idle(20)
        assert self.engine._disk.idle(20)

    def play(self, seconds: float) -> None:
        """Let time pass as the engine's thread does, and then what was given to the disk be there, unless it hangs."""
        engine, end = self.engine, self.clock.now + seconds
        while self.clock.now < end:
            engine._woken = False
            pause = engine.step()
            if not engine._woken:
                left = end - self.clock.now
                self.clock.sleep(left if pause is None else min(pause, left), lambda: engine._woken)
        assert self.disk_hangs or self.engine._disk.idle(20)


def watched(stage: Stage, name: str | None = None, *, sparse: bool = False) -> tuple[Watcher, Session]:
    """A film that somebody watches; of a `sparse` one there is a copy every fourth chunk."""
    film, watcher = stage.open(name), Watcher(stage.clock)
    film.attach(watcher)
    if sparse:
        film.film._history._memory = 20 * film.film._stream.copy().size
    return watcher, film


def problems(watcher: Watcher, code: str) -> list[Problem]:
    """What it was told that went wrong, of one kind."""
    return [problem for problem in watcher.of(Problem) if problem.code == code]


def say(name: str, prompt: Any, kind: str = "recache", chunks: int = 0, **more: Any) -> PromptUpdate:
    """A prompt."""
    transition = WireTransition(kind=kind, chunks=chunks)  # type: ignore[arg-type]  # one of the kinds
    return PromptUpdate(id=name, prompt=prompt, transition=transition, **more)
