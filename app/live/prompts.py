"""Prompt schedule of a live film: the prompt in force, the one that comes next, and those that queue.

Everything counts from a chunk on. Messages arrive on any thread; the engine asks once a chunk, and has what came
before it asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import RLock

from app.config.lengths import Rhythm
from app.config.table import WIRED
from app.live.checkpoint import ScheduleRecord
from app.live.messages import QueueItem, Set, Span, WireTransition
from app.live.player import Receipt
from app.loading.live import Knobs
from app.record.session_log import ChunkControls, Steered
from pipelines.presets.knobs import KNOBS
from pipelines.types import Prompt, Transition, in_words

USUAL_HOLD = 8.0
"""Seconds that a prompt without a hold is shown once another one queues behind it."""
_SPANS = 40
_REFRESH_SECONDS = 10.0
_PAST = 256
"""Changes that are remembered: more than can lie between now and where a rewind reaches."""


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """What the next chunk is made with; `receipts` if a prompt begins with it, `sudden` if it takes the screen."""

    controls: ChunkControls
    receipts: tuple[Receipt, ...] = ()
    sudden: bool = False


@dataclass(frozen=True, slots=True)
class _Next:
    prompt: Prompt
    transition: Transition
    hold: float | None
    receipts: tuple[Receipt, ...]
    refresh: bool = False

    def written(self) -> QueueItem:
        """As it is written down."""
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        transition = WireTransition(kind=self.transition.kind, chunks=self.transition.chunks)
        return QueueItem(id=self.receipts[-1].id, prompt=prompt, hold=self.hold, transition=transition)


@dataclass(frozen=True, slots=True)
class _Start:
    """A prompt's first frame, and the first that shows it whole."""

    begin: int
    words: str
    whole: int

    def spans(self, end: int | None) -> Iterator[Span]:
        """Its pieces of the track, up to where another prompt begins."""
        whole = self.whole if end is None else min(self.whole, end)
        if whole > self.begin:
            yield Span(kind="transition", prompt=self.words, begin=self.begin, end=whole)
        if end is None or whole < end:
            yield Span(kind="now" if end is None else "past", prompt=self.words, begin=whole, end=end)


class PromptSchedule:
    """Of one session.

    Args:
        controls: what the film begins with.
        fps: of the film.
        rhythm: of its chunks.

    Attributes:
        refresh_on_drift: the drift at which the memory is made anew.
    """

    def __init__(self, controls: ChunkControls, fps: float, rhythm: Rhythm) -> None:
        self._lock = RLock()
        self.queue: list[QueueItem] = []
        self.past: list[tuple[int, ChunkControls]] = [(0, controls)]
        self.refresh_on_drift: float | None = None
        self._fps, self._rhythm = fps, rhythm
        self._refreshed_at = 0.0
        self._next: _Next | None = None
        self._since: dict[str, float] = {}  # when the queue's items were submitted
        self._hold: float | None = None
        self._held_from = 0  # frame
        self._upcoming = 0  # the first chunk that has not begun
        self._blends_until = 0  # the first chunk that shows the prompt in force whole

    @property
    def controls(self) -> ChunkControls:
        """What is in force."""
        return self.past[-1][1]

    @property
    def waits(self) -> bool:
        """Whether a prompt begins with the next chunk."""
        return self._next is not None

    @property
    def sudden(self) -> bool:
        """Whether a cut waits: it does not wait for the chunk on screen to end."""
        upcoming = self._next
        return upcoming is not None and upcoming.transition.kind == "cut"

    def say(
        self, prompt: Prompt, transition: Transition, hold: float | None, receipt: Receipt
    ) -> tuple[int, tuple[Receipt, ...]]:
        """A prompt for the next chunk; returns which that is. One that has not begun gives way: its receipt as well."""
        with self._lock:
            overtaken = self._next.receipts if self._next is not None else ()
            if self._next is not None and self._next.transition.kind == "cut":
                transition = self._next.transition  # what was to be cut off is still to be
            self._next = _Next(prompt, transition, hold, (receipt,))
            return self._upcoming, overtaken

    def refresh(self, chunk: int) -> None:
        """Before the next chunk the memory is made anew under the prompt in force, unless that still blends in."""
        with self._lock:
            if self._next is None and chunk >= self._blends_until:
                self._next = _Next(respelled(self.controls.prompt), Transition(), None, (), refresh=True)

    def drifted(self, drift: float, chunk: int, now: float) -> None:
        """The film shows so much drift before `chunk`: `refresh` where that is too much and none was lately."""
        limit = self.refresh_on_drift
        if limit is not None and drift >= limit and now - self._refreshed_at >= _REFRESH_SECONDS:
            self._refreshed_at = now
            self.refresh(chunk)

    def line_up(self, items: list[QueueItem], now: float) -> None:
        """The queue as it shall be."""
        with self._lock:
            self.queue = items
            self._since = {item.id: self._since.get(item.id, now) for item in items}

    def line_up_last(self, item: QueueItem, now: float) -> tuple[int, int]:
        """One more behind the queue, in which no other has its id; returns the chunk and the frame it begins with."""
        with self._lock:
            others = [other for other in self.queue if other.id != item.id]
            self.line_up([*others, item], now)
            frame = self.queued_start(len(others))
            return max(self._upcoming, self._rhythm.chunk_of(latent_of(frame))), frame

    def change(self, **settings: object) -> None:
        """Other settings from the next chunk on."""
        with self._lock:
            self._set(self._upcoming, replace(self.controls, **settings))  # type: ignore[arg-type]  # of its fields

    def adjust(self, message: Set, check: Callable[[Knobs], object]) -> bool:
        """Other settings from the next chunk on; True if they are of the memory, which has to begin anew.

        Raises:
            ValueError: `check` has refused them.
        """
        given = message.given()
        if (guidance := given.pop("guidance_scale", None)) is not None:
            self.change(guidance_scale=guidance)  # which the engine reads anew with every chunk
        asked = {name: value for name, value in given.items() if name in KNOBS}
        knobs = tuple((dict(self.controls.knobs) | asked).items())
        if knobs == self.controls.knobs:
            return False
        check(knobs)
        self.change(knobs=knobs)
        return any(wire.anew for entry, wire in WIRED if entry.name in asked)

    def queued_start(self, position: int) -> int:
        """The frame at which an item of the queue begins, if nothing changes."""
        with self._lock:
            frame = self._switch_frame(self._hold)
            for item in self.queue[:position]:
                frame += round((item.hold or USUAL_HOLD) * self._fps)
            return frame

    # ------------------------------------------------------------------ the engine's side

    def plan(self, chunk: int) -> ChunkPlan:
        """What chunk `chunk` is made with; it begins now."""
        with self._lock:
            frame = self._rhythm.start_frame(chunk)
            upcoming, self._next = self._next, None
            spoken = upcoming is not None and not upcoming.refresh
            if not spoken and self.queue and frame >= self._switch_frame(self._hold):
                item = self.queue.pop(0)
                receipt = Receipt(item.id, self._since.pop(item.id))
                upcoming = _Next(item.of_engine(), item.transition.of_engine(), item.hold, (receipt,))
            self._upcoming = chunk + 1
            if upcoming is None:
                return ChunkPlan(self.controls)
            prompt, transition = upcoming.prompt, upcoming.transition
            if transition.kind == "cut" and prompt == self.controls.prompt:
                prompt = respelled(prompt)
            self._set(chunk, replace(self.controls, prompt=prompt, transition=transition))
            if not upcoming.refresh:
                self._hold, self._held_from = upcoming.hold, frame
            self._blends_until = chunk + transition.chunks
            return ChunkPlan(self.controls, upcoming.receipts, transition.kind == "cut")

    def at(self, chunk: int) -> ChunkControls:
        """What a past chunk was made with."""
        return next(controls for start, controls in reversed(self.past) if start <= chunk)

    def go_back(self, chunk: int) -> None:
        """The film goes on from before `chunk`, with what was in force then."""
        with self._lock:
            self.past = [entry for entry in self.past if entry[0] < chunk] or [(0, self.past[0][1])]
            self._hold, self._held_from = None, self._rhythm.start_frame(chunk)
            self._go_on_from(chunk)

    def go_to(self, past: Sequence[tuple[int, ChunkControls]], chunk: int) -> None:
        """The film goes on from before `chunk` of a branch in which this was in force."""
        with self._lock:
            self.past = list(past)
            self._hold, self._held_from = None, self._rhythm.start_frame(chunk)
            self._go_on_from(chunk)

    def take_back(self, chunk: int, prompt: Prompt) -> None:
        """Chunk `chunk` could not be made with what it was to begin with; a film's first one is made with `prompt`."""
        with self._lock:
            first = 0, replace(self.past[0][1], prompt=prompt)
            self.past = [entry for entry in self.past if entry[0] < chunk] or [first]
            self._go_on_from(chunk)

    def begin(self, controls: ChunkControls) -> None:
        """A new film."""
        with self._lock:
            self.past, self._hold, self._held_from = [(0, controls)], None, 0
            self._go_on_from(0)

    def written(self) -> ScheduleRecord:
        """All of it."""
        with self._lock:
            past = [Steered.of(controls, 0, chunk) for chunk, controls in self.past]
            upcoming = None if self._next is None or self._next.refresh else self._next.written()
            return ScheduleRecord(
                past=past, queue=self.queue, hold=self._hold, held_from=self._held_from, next=upcoming
            )

    def read(self, record: ScheduleRecord, chunk: int, now: float) -> None:
        """Go on with what was written down, from `chunk` on."""
        with self._lock:
            self.past = [(each.chunk, each.controls) for each in record.past]
            self._hold, self._held_from = record.hold, record.held_from
            self._go_on_from(chunk)
            self.line_up(list(record.queue), now)
            if (item := record.next) is not None:
                self._next = _Next(item.of_engine(), item.transition.of_engine(), item.hold, (Receipt(item.id, now),))

    def spans(self) -> list[Span]:
        """The track: what was, is, and is to come."""
        with self._lock:
            starts, refreshed = self._starts()
            ends = [*(start.begin for start in starts[1:]), None]
            spans = [span for start, end in zip(starts, ends, strict=True) for span in start.spans(end)][-_SPANS:]
            spans += [span for span in refreshed if span.begin >= spans[0].begin]
            for position, item in enumerate(self.queue):
                spans.append(Span(kind="queued", prompt=in_words(item.of_engine()), begin=self.queued_start(position)))
            return spans

    def _starts(self) -> tuple[list[_Start], list[Span]]:
        """Where a prompt began, and where one was refreshed."""
        starts: list[_Start] = []
        refreshed: list[Span] = []
        before: ChunkControls | None = None
        for chunk, controls in self.past:
            begin, words = self._rhythm.start_frame(chunk), in_words(controls.prompt)
            anew = before is None or controls.prompt != before.prompt
            if anew and starts and starts[-1].words == words and controls.transition.kind == "recache":
                end = self._rhythm.start_frame(chunk + 1)
                refreshed.append(Span(kind="refresh", prompt=words, begin=begin, end=end))
            elif anew:
                starts.append(_Start(begin, words, self._rhythm.start_frame(chunk + controls.transition.chunks)))
            before = controls
        return starts, refreshed

    def _set(self, chunk: int, controls: ChunkControls) -> None:
        if self.past[-1][0] == chunk:
            self.past.pop()
        self.past.append((chunk, controls))
        del self.past[:-_PAST]

    def _go_on_from(self, chunk: int) -> None:
        begun, controls = self.past[-1]
        self._upcoming, self._blends_until = chunk, begun + controls.transition.chunks

    def _switch_frame(self, hold: float | None) -> int:
        return self._held_from + round((hold or USUAL_HOLD) * self._fps)


def respelled(prompt: Prompt) -> Prompt:
    """The same prompt as another value: a stream acts on a prompt that differs from the one before."""
    if isinstance(prompt, str):
        return ((prompt, 1.0),)
    if len(prompt) == 1:
        return prompt[0][0]
    factor = 2.0 if sum(weight for _, weight in prompt) <= 1 else 0.5  # exact, and neither grows nor vanishes
    return tuple((text, weight * factor) for text, weight in prompt)


def latent_of(frame: int) -> int:
    """The latent frame that a pixel frame comes from."""
    return -(-frame // 4)
