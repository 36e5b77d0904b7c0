"""Streams of one model on the machine that has it, for sessions that live on another.

A session says what to do with its stream, one request after the other; what came of it goes back, with what is to be
known of the stream before the next one, so that nobody has to ask in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from app.config.lengths import Rhythm
from app.loading.held import HeldText, TextFacts
from app.loading.live import Copy, LiveModel, LiveOpener, LiveStream, open_live

if TYPE_CHECKING:
    from app.loading.engine_request import EngineRequest

METHODS = (
    "begin",
    "set_knobs",
    "next_chunk",
    "begin_with",
    "open_video",
    "enter",
    "leave_video",
    "preview",
)
"""Of app.loading.live.LiveStream, as they are named there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request about a stream: its number, one of METHODS or new, go_back, copy, read, and whether to copy it then."""

    stream: int
    method: str
    arguments: tuple[Any, ...] = ()
    copy: bool = False


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What app.loading.live.LiveStream tells between two requests."""

    wants: int | None = None
    levels: tuple[float, ...] = ()
    decisions: tuple[Any, ...] = ()
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request: a value or an error, what there is to know now, bytes in use, and the copy's size."""

    value: Any = None
    error: Exception | None = None
    facts: StreamFacts = StreamFacts()
    memory: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a live model is, without its networks (app.loading.live.LiveModel has the meaning of each field)."""

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
    text: TextFacts | None
    lanes: int
    no_video: str
    remembers: int


class StreamHost:
    """One model and its streams; used by one thread.

    Args:
        opener: loads the model.
    """

    def __init__(self, opener: LiveOpener = open_live) -> None:
        self._opener = opener
        self._model: LiveModel | None = None
        self._streams: dict[int, LiveStream] = {}

    def load(self, request: EngineRequest) -> ModelFacts:
        """Load the model of `request`; raises as app.loading.live.open_live."""
        model = self._model = self._opener(request)
        told: dict[str, Any] = {field.name: getattr(model, field.name) for field in fields(ModelFacts)}
        text = model.text.alone() if isinstance(model.text, HeldText) else model.text
        told |= {"system": dict(model.system), "knobs": dict(model.knobs), "text": text}
        return ModelFacts(**told)

    def ask(self, asked: Asked, copy: Copy | None = None) -> tuple[Reply, Copy | None]:
        """Do what is asked; `copy` is what `go_back` goes back to.

        Returns:
            The reply, which holds an error of the stream's instead of raising it, and the copy that was asked for.
        """
        assert self._model is not None  # loaded first
        made: Copy | None = None
        try:
            value = self._do(asked, copy)
            stream = self._streams.get(asked.stream)
            if stream is not None and (asked.copy or asked.method == "copy"):
                made = stream.copy()
        except Exception as error:
            return Reply(error=error.with_traceback(None), memory=self._model.memory()), None
        facts = StreamFacts()
        if stream is not None:
            facts = StreamFacts(stream.wants, stream.levels, tuple(stream.decisions), stream.begun)
        size = 0 if made is None else made.size
        return Reply(value, None, facts, self._model.memory(), size), made

    def forget(self, stream: int) -> None:
        """Nobody asks about this stream any more."""
        self._streams.pop(stream, None)

    def _do(self, asked: Asked, copy: Copy | None) -> Any:
        model, arguments = self._model, asked.arguments
        assert model is not None
        if asked.method == "read":
            model.read_prompt(*arguments)
        elif asked.method == "new":
            self._streams[asked.stream] = model.new_stream(*arguments)
        elif asked.method == "go_back":
            assert copy is not None
            self._streams[asked.stream].go_back(copy)
        elif asked.method in METHODS:
            return getattr(self._streams[asked.stream], asked.method)(*arguments)
        else:
            assert asked.method == "copy"
        return None
