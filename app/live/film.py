"""A live film's past and present on the engine's side: its stream, its log, and the ways back.

Everything here is called on the engine thread alone.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from app.live.checkpoint import Parked
from app.live.history import Undo
from app.live.player import Receipt
from app.live.prompts import Course, Turn
from app.live.quota import Quota
from app.live.recording import Ended
from app.live.saves import Saves
from app.live.spelling import Spelling
from app.live.worker import Worker
from app.loading.live import Copy, LiveModel
from app.record.log_writer import TakeWriter
from app.record.session_log import Moment, Recorded
from pipelines.types import Chunk, Prompt, Transition

UNDO_SECONDS = 60.0
MOST_AGAIN = 4
"""Chunks that a rewind makes again at most: meanwhile its own film stands still."""


class Refused(ValueError):
    """The model cannot do what was asked with these receipts; the film can go on as it was."""

    def __init__(self, why: str, receipts: tuple[Receipt, ...]) -> None:
        super().__init__(why)
        self.receipts = receipts


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk that was made in `seconds`, which began at `begun`; `switched` if its prompt is a new one."""

    chunk: Chunk
    turn: Turn
    switched: bool
    begun: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Studio:
    """What all films of an engine share.

    `clock` only goes forward, `wake` tells the engine's threads of something new; `disk` writes logs and copies of
    films, `saves` makes files of them, `quota` is what they may take of the disk, `spelling` knows the model's words.
    """

    model: LiveModel
    clock: Callable[[], float]
    wake: Callable[[], None]
    disk: Worker
    saves: Saves
    quota: Quota
    spelling: Spelling


class LiveFilm:
    """Of one session.

    Args:
        studio: what makes it.
        take: its log.
        course: what it is to show.

    Attributes:
        chunk: the next chunk's number.
        branch: which film this is, counting rewinds and new beginnings.
        made: how many chunks were made to be shown, in all branches.
    """

    def __init__(self, studio: Studio, take: TakeWriter, course: Course) -> None:
        model = self.model = studio.model
        self.course, self._take, self._clock = course, take, studio.clock
        self.chunk = self.branch = self.made = 0
        self._undo = Undo(0, round(UNDO_SECONDS * model.fps / model.chunk_frames))
        self._again: deque[int] = deque()  # chunks that a rewind has still to make again before the next
        self._logged: Moment | None = None
        self._stream = model.new_stream(course.moment.seed, course.moment.knobs)

    def make(self) -> Piece:
        """Make the next chunk.

        Raises:
            Refused: the prompt or the settings that were to begin with it; the film goes on without them.
        """
        self._catch_up()
        begun, before = self._clock(), self.course.moment
        turn = self.course.turn(self.chunk)
        if self._undo.due(self.chunk):
            self.copy()
        moment, switched = turn.moment, turn.moment.prompt != before.prompt
        try:
            if switched:
                self.model.read_prompt(moment.prompt)
            self._stream.turn(moment.knobs)
        except ValueError as error:  # nothing has changed yet
            self.course.take_back(self.chunk)
            raise Refused(str(error), turn.receipts) from error
        chunk = self._stream.next_chunk(moment.controls)
        seconds = self._clock() - begun
        if moment != self._logged:
            self._take.controls(moment, self.branch, self.chunk)
            self._logged = moment
        self._take.chunk(chunk, self.branch, seconds)
        self.chunk, self.made = self.chunk + 1, self.made + 1
        return Piece(chunk, turn, switched, begun, seconds)

    def preview(self, prompt: Prompt) -> Chunk:
        """The next chunk as it would be if another prompt began with it, at once; ValueError if it cannot be read."""
        self.model.read_prompt(prompt)
        self._catch_up()
        return self._stream.preview(replace(self.course.moment, prompt=prompt, transition=Transition()).controls)

    def copy(self) -> Copy:
        """The state before the next chunk."""
        self._catch_up()
        copy = self._undo.at(self.chunk)
        if copy is None:
            copy = self._stream.copy()
            if self._undo.due(self.chunk):
                self._undo.add(self.chunk, copy)
        return copy

    def limit_undo(self, memory: int) -> None:
        """Let the ways back take so many bytes from now on."""
        self._undo.limit(memory)

    def recorded(self, ended: Ended) -> None:
        """A recording of it has ended; on any thread."""
        self._take.recorded(
            Recorded(branch=self.branch, chunk=self.chunk, name=ended.name, frames=ended.frames, ended=ended.ended)
        )

    def lost(self, shown: Mapping[int, int]) -> None:
        """Of these chunks only so many frames were shown."""
        for chunk, frames in shown.items():
            self._take.shown(self.branch, chunk, frames)

    def begin(self, seed: int | None, prompt: Prompt | None) -> None:
        """A new film; seed -1 draws one, and None keeps what is in force, of the prompt too."""
        before = self.course.moment
        seed = before.seed if seed is None else secrets.randbelow(2**31) if seed == -1 else seed
        moment = replace(before, prompt=prompt or before.prompt, seed=seed, transition=Transition())
        self._again.clear()
        self._stream.begin(seed, moment.knobs)
        self.course.begin(moment)
        self._undo.forget()
        self._branch_off(0)

    def rewind(self, frame: int) -> bool:
        """Back to before the chunk that shows `frame`, or as near as there is a way; from there it is another film.

        The stream is then `behind` where there is no copy of just that moment. False: there is no way back.
        """
        target = min(self.chunk, self.model.rhythm.chunk_of(latent_of(frame)))
        mark = self._undo.before(target)
        if mark is None:
            return False
        target = min(max(target, mark.chunk), mark.chunk + MOST_AGAIN)
        self._stream.begin(self.course.at(mark.chunk).seed, self.course.at(max(0, mark.chunk - 1)).knobs)
        self._stream.go_back(mark.copy)
        self._again = deque(range(mark.chunk, target))
        self._undo.forget(after=target)
        self.course.go_back(target)
        self._branch_off(target)
        return True

    @property
    def behind(self) -> bool:
        """Whether a rewind has chunks to make again before the next one."""
        return bool(self._again)

    def make_again(self) -> None:
        """Make one of them, which nobody sees."""
        moment = self.course.at(self._again[0])
        self._stream.turn(moment.knobs)
        self._stream.next_chunk(moment.controls)
        self._again.popleft()

    def load(self, parked: Parked, copy: Copy) -> None:
        """Go on from where the film was parked; ValueError if the copy does not fit.

        What came after it, on a server that was killed, was another branch.
        """
        self._stream.go_back(copy)
        self.chunk, self.branch = parked.chunk, parked.branch
        self._logged = self.course.at(self.chunk - 1) if self.chunk else None
        if parked.running:
            self.branch = max(self.branch, self._take.newest_branch)
            self._branch_off(self.chunk)

    def close(self) -> None:
        """Let go of everything."""
        self._undo.forget()
        del self._stream

    def _catch_up(self) -> None:
        while self._again:
            self.make_again()

    def _branch_off(self, chunk: int) -> None:
        self._take.branch(self.branch + 1, self.branch, chunk)
        self.branch, self.chunk = self.branch + 1, chunk
        self._logged = self.course.at(chunk - 1) if chunk else None


def latent_of(frame: int) -> int:
    """The latent frame that a pixel frame comes from."""
    return -(-frame // 4)
