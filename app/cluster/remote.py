"""Live model whose networks are on another machine, and streams of it that outlive that machine.

Every few chunks a copy of a stream's state is asked for; what was asked of the stream since is noted. When the engine
that has it is lost or drained, the stream goes on at another one: from the copy, with what was noted asked again. A
stream is a function of these, so the film goes on with the chunks that it would have had.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from app.cluster.host import Asked, ModelFacts, Reply, StreamFacts
from app.loading.live import Copy, Knobs, LiveModel
from pipelines.presets.knobs import apply_knobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.loading.engine_request import EngineRequest
    from pipelines.types import Chunk, Controls, Prompt
    from pipelines.video import Decision, Shown

COPY_EVERY = 2
"""Requests after which a copy is asked for: so many are asked again at most when an engine is lost."""
_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class EngineLost(Exception):
    """The process or the machine that has an engine is gone; the text says how, as a clause."""


class Far(Protocol):
    """An engine elsewhere: a StreamHost behind a wire; app.cluster.ray_engines.RayEngine is such."""

    @property
    def where(self) -> str:
        """The node and the process, for people."""
        ...

    def ask(self, asked: Asked, copy: Any = None) -> tuple[Reply, Any]:
        """What StreamHost.ask answers; copies are handles, of which nothing has travelled yet.

        Raises:
            EngineLost: it is gone.
        """
        ...

    def forget(self, stream: int) -> None:
        """Let go of a stream there; never waits, and does nothing where the engine is gone."""
        ...

    def fetch(self, copy: Any) -> Copy:
        """The copy behind a handle, on any thread; OSError if it is gone with its machine."""
        ...

    def end(self) -> None:
        """End the process; never blocks for long."""
        ...


class Home(Protocol):
    """Where the streams of one live engine are at present (app/cluster/fleet.py)."""

    def current(self) -> Far:
        """The engine to ask; waits while there is none.

        Raises:
            RuntimeError: none is left, and none could be started.
        """
        ...

    def lost(self, far: Far, why: EngineLost) -> None:
        """It did not answer."""
        ...

    def entered(self, far: Far) -> None:
        """A stream is at it now."""
        ...

    def left(self, far: Far) -> None:
        """A stream is not any more."""
        ...


@dataclass(frozen=True, slots=True)
class FarCopy:
    """A stream's state in the store of the cluster."""

    far: Far
    handle: Any
    size: int

    def save(self, path: Path) -> str:
        return self.far.fetch(self.handle).save(path)


class FarStream:
    """A `LiveStream` at an engine elsewhere.

    Args:
        home: where it is asked for.
        seed: of its noise.
        knobs: settings changed from the beginning.
        memory: told the bytes in use at the engine after every request.
    """

    def __init__(self, home: Home, seed: int, knobs: Knobs, memory: list[int]) -> None:
        self._home, self._number, self._memory = home, next(_numbers), memory
        self._far: Far | None = None
        self._facts = StreamFacts()
        self._base: tuple[int, Knobs, Any] = (seed, knobs, None)
        self._since: list[Asked] = []
        self._settle()

    def __del__(self) -> None:
        if (far := getattr(self, "_far", None)) is not None:
            far.forget(self._number)
            self._home.left(far)

    # ------------------------------------------------------------------ app.loading.live.LiveStream

    @property
    def wants(self) -> int | None:
        return self._facts.wants

    @property
    def levels(self) -> tuple[float, ...]:
        return self._facts.levels

    @property
    def decisions(self) -> list[Decision]:
        return list(self._facts.decisions)

    @property
    def begun(self) -> bool:
        return self._facts.begun

    def begin(self, seed: int, knobs: Knobs) -> None:
        self._ask("begin", seed, knobs)
        self._base, self._since = (seed, knobs, None), []

    def set_knobs(self, knobs: Knobs) -> None:
        self._ask("set_knobs", knobs)

    def next_chunk(self, controls: Controls) -> Chunk:
        return self._ask("next_chunk", controls)

    def begin_with(self, frames: NDArray[np.uint8], controls: Controls, parts: Sequence[int]) -> list[Chunk]:
        return self._ask("begin_with", frames, controls, tuple(parts))

    def open_video(self, picture: NDArray[np.uint8], controls: Controls) -> list[Chunk]:
        return self._ask("open_video", picture, controls)

    def enter(self, frames: NDArray[np.uint8], controls: Controls, steps: int | None) -> list[Shown]:
        return self._ask("enter", frames, controls, steps)

    def leave_video(self, controls: Controls) -> list[Shown]:
        return self._ask("leave_video", controls)

    def preview(self, controls: Controls) -> Chunk:
        reply, _ = self._send(Asked(self._number, "preview", (controls,)))
        return _value(reply)

    def copy(self) -> FarCopy:
        reply, handle = self._send(Asked(self._number, "copy"))
        _value(reply)
        self._noted(handle)
        assert self._far is not None
        return FarCopy(self._far, handle, reply.size)

    def go_back(self, copy: Copy) -> None:
        handle = copy.handle if isinstance(copy, FarCopy) else copy
        reply, _ = self._send(Asked(self._number, "go_back"), handle)
        _value(reply)
        self._noted(handle)

    # ------------------------------------------------------------------ at which engine

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Ask what changes the stream, and note it."""
        asked = Asked(self._number, method, arguments, copy=len(self._since) + 1 >= COPY_EVERY)
        reply, handle = self._send(asked)
        value = _value(reply)
        self._since.append(asked)
        if asked.copy:
            self._noted(handle)
        return value

    def _noted(self, handle: Any) -> None:
        """The stream's state now is that of the copy, under the knobs that it has."""
        changed = [asked.arguments[0] for asked in self._since if asked.method == "set_knobs"]
        seed, knobs, _ = self._base
        self._base, self._since = (seed, changed[-1] if changed else knobs, handle), []

    def _send(self, asked: Asked, copy: Any = None) -> tuple[Reply, Any]:
        while True:
            far = self._settle()
            try:
                reply, handle = far.ask(asked, copy)
            except EngineLost as lost:
                self._home.lost(far, lost)
                continue
            self._facts, self._memory[0] = reply.facts, reply.memory
            return reply, handle

    def _settle(self) -> Far:
        """Be at the engine where it should be, whatever became of the one before."""
        while True:
            far, before = self._home.current(), self._far
            if far is before:
                return far
            try:
                if before is not None:
                    self._leave(before)
                self._enter(far)
            except EngineLost as lost:
                self._home.lost(far, lost)
                continue
            self._far = far
            self._home.entered(far)
            return far

    def _leave(self, before: Far) -> None:
        """Take the state along from an engine that is still there: of one that is not, the last copy has to do."""
        self._far = None
        try:
            reply, handle = before.ask(Asked(self._number, "copy"))
            if reply.error is None:
                self._noted(handle)
            before.forget(self._number)
        except EngineLost:
            _log.info("a film goes on from a copy, with %d requests asked again", len(self._since))
        self._home.left(before)

    def _enter(self, far: Far) -> None:
        seed, knobs, handle = self._base
        _value(far.ask(Asked(self._number, "new", (seed, knobs)))[0])
        if handle is not None:
            _value(far.ask(Asked(self._number, "go_back"), handle)[0])
        for asked in self._since:
            reply, _ = far.ask(Asked(self._number, asked.method, asked.arguments))
            _value(reply)
            self._facts = reply.facts


class _EveryWord:
    """Of a text encoder that reads any text."""

    knows: Mapping[str, Sequence[str]] = {}

    def unknown_words(self, prompt: str) -> Mapping[str, Sequence[str]]:
        return {}

    def instead(self, prompt: str, unknown: Mapping[str, Sequence[str]]) -> str:
        return prompt


def far_model(request: EngineRequest, facts: ModelFacts, home: Home) -> LiveModel:
    """A live model over engines elsewhere; its streams are used by one thread."""
    memory = [0]

    def read_prompt(prompt: Prompt) -> None:
        while True:
            far = home.current()
            try:
                reply, _ = far.ask(Asked(0, "read", (prompt,)))
            except EngineLost as lost:
                home.lost(far, lost)
                continue
            _value(reply)
            return

    told: dict[str, Any] = {field.name: getattr(facts, field.name) for field in fields(facts)}
    told["text"] = facts.text or _EveryWord()
    return LiveModel(
        **told,
        new_stream=lambda seed, knobs: FarStream(home, seed, knobs, memory),
        check_knobs=lambda knobs: apply_knobs(request.preset, dict(knobs)),
        read_prompt=read_prompt,
        memory=lambda: memory[0],
    )


def _value(reply: Reply) -> Any:
    """What came of a request; an error is raised here, as if the stream were."""
    if reply.error is not None:
        raise reply.error
    return reply.value
