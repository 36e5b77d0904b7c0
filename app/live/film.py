"""Live film on the engine's side: its stream, its session log, and the history that it can be taken back to.

Everything here is called on the engine thread alone.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import BaseModel

from app.live.beginning import Beginning
from app.live.branches import Branches, LeftBranch
from app.live.checkpoint import Checkpoint
from app.live.history import History, Mark
from app.live.pictures import PictureMark
from app.live.player import Receipt
from app.live.prompts import ChunkPlan, PromptSchedule, latent_of
from app.live.quota import Quota
from app.live.recording import Ended
from app.live.saves import Saves
from app.live.spelling import Spelling
from app.live.video import FilmVideo
from app.live.worker import Worker
from app.loading.live import Copy, LiveModel
from app.record.kept_input import KEPT, InputWriter
from app.record.log_writer import LogWriter
from app.record.session_log import ChunkControls, Entered, Recorded
from pipelines.types import Chunk, Prompt, Transition

HISTORY_SECONDS = 60.0
MOST_AGAIN = 4
"""Chunks that a rewind makes again at most: meanwhile its own film stands still."""


class Refused(ValueError):
    """The model cannot do what was asked with these receipts; the film can go on as it was."""

    def __init__(self, why: str, receipts: tuple[Receipt, ...]) -> None:
        super().__init__(why)
        self.receipts = receipts


@dataclass(frozen=True, slots=True)
class MadeChunk:
    """A chunk that was made in `seconds`, which began at `begun`; `switched` if its prompt is a new one.

    `marks` are the pictures that its frames were made of, where they were made of some.
    """

    chunk: Chunk
    plan: ChunkPlan
    switched: bool
    begun: float
    seconds: float
    marks: tuple[PictureMark, ...] = ()


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
        session_log: its log.
        schedule: what it is to show.
        tell: tells all who watch.
        ask: has the engine begin it anew with pictures; on any thread.

    Attributes:
        video: what it is made of beside words.
        chunk: the next chunk's number.
        branch: which film this is, counting rewinds and new beginnings.
        made: how many chunks were made to be shown, in all branches.
        branches: those that were left.
    """

    def __init__(
        self,
        studio: Studio,
        session_log: LogWriter,
        schedule: PromptSchedule,
        tell: Callable[[BaseModel], object] = lambda event: None,
        ask: Callable[[Beginning], object] = lambda beginning: None,
    ) -> None:
        model = self.model = studio.model
        folder, quota = session_log.folder, studio.quota
        kept = InputWriter(folder / KEPT, studio.disk.give, lambda size: quota.room(folder.name, size))
        self.video = FilmVideo(model, studio.clock, tell, ask, kept)
        self._read = schedule.controls.prompt
        self._pictured = set[int]()  # chunks that were made of pictures, in any branch
        self.schedule, self._session_log, self._clock = schedule, session_log, studio.clock
        self.chunk = self.branch = self.made = 0
        self._history = History(0, round(HISTORY_SECONDS * model.fps / model.chunk_frames))
        self.branches = Branches()
        self._again: deque[int] = deque()  # chunks that a rewind has still to make again before the next
        self._logged: ChunkControls | None = None
        self._begun: tuple[ChunkPlan, ChunkControls] | None = None  # a chunk's plan, until it is made
        self._aside: tuple[int, Copy | None] | None = None
        self._held_since = 0  # the first chunk under the memory plan that the model has
        self._stream = model.new_stream(schedule.controls.seed, schedule.controls.knobs)

    def make(self) -> MadeChunk:
        """Make the next chunk.

        Raises:
            Refused: the prompt or the settings that were to begin with it; the film goes on without them.
        """
        self._catch_up()
        begun = self._clock()
        if self._begun is None:
            before = self.schedule.controls
            self._begun = self.schedule.plan(self.chunk), before
        plan, before = self._begun
        if self._history.due(self.chunk):
            self.copy()
        controls, switched = plan.controls, plan.controls.prompt != before.prompt
        try:
            if controls.prompt != self._read:  # a new beginning has one that nobody switched to
                self.model.read_prompt(controls.prompt)
                self._read = controls.prompt
            self._stream.set_knobs(controls.knobs)
        except ValueError as error:  # nothing has changed yet
            self.schedule.take_back(self.chunk, self._read)
            self._begun = None
            raise Refused(str(error), plan.receipts) from error
        shown = self.video.make(self._stream, controls.for_stream)
        chunk, marks = (shown.chunk, shown.marks) if shown else (self._stream.next_chunk(controls.for_stream), ())
        chunk = self._numbered(chunk)
        seconds = self._clock() - begun
        self.video.made(seconds)
        if controls != self._logged:
            self._session_log.controls(controls, self.branch, self.chunk)
            self._logged = controls
        source = shown.source if shown else None
        for entry in self.video.log.entries:
            self._session_log.entered(Entered(branch=self.branch, chunk=self.chunk, **entry.as_data()))
        kept = source is not None and not self.video.log.unkept
        self._session_log.chunk(chunk, self.branch, seconds, source=source, kept=kept)
        for kind, data in self.video.told():
            self._session_log.decided(self.branch, self.chunk, kind, data)
        if source is not None:
            self._pictured.add(self.chunk)
        self.chunk, self.made, self._begun = self.chunk + 1, self.made + 1, None
        return MadeChunk(chunk, plan, switched, begun, seconds, marks)

    def preview(self, prompt: Prompt) -> Chunk:
        """The next chunk as it would be if another prompt began with it, at once; ValueError if it cannot be read."""
        self.model.read_prompt(prompt)
        self._catch_up()
        return self._stream.preview(replace(self.schedule.controls, prompt=prompt, transition=Transition()).for_stream)

    def beginning(self, seed: int) -> ChunkControls:
        """What a film of the prompt in force would begin with under another seed; on any thread."""
        return replace(self.schedule.controls, seed=seed, transition=Transition())

    def copy(self) -> Copy:
        """The state before the next chunk."""
        self._catch_up()
        copy = self._history.at(self.chunk)
        if copy is None:
            copy = self._stream.copy()
            if self._history.due(self.chunk):
                self._history.add(self.chunk, copy)
        return copy

    def limit_history(self, memory: int) -> None:
        """Let the ways back take so many bytes from now on, a quarter of them those to other branches."""
        self.branches.limit(memory // 4)
        self._history.limit(memory - memory // 4)

    def recorded(self, ended: Ended) -> None:
        """A recording of it has ended; on any thread."""
        self._session_log.recorded(
            Recorded(branch=self.branch, chunk=self.chunk, name=ended.name, frames=ended.frames, ended=ended.ended)
        )

    def lost(self, shown: Mapping[int, int]) -> None:
        """Of these chunks only so many frames were shown."""
        for chunk, frames in shown.items():
            self._session_log.shown(self.branch, chunk, frames)

    def begin(self, seed: int | None, prompt: Prompt | None, left: int, beginning: Beginning | None = None) -> None:
        """A new film; seed -1 draws one, and None keeps what is in force, of the prompt too.

        Of the one before, frame `left` was on screen. The new one begins with pictures, if they are given.
        """
        self.leave(left)
        before = self.schedule.controls
        seed = before.seed if seed is None else secrets.randbelow(2**31) if seed == -1 else seed
        controls = replace(before, prompt=prompt or before.prompt, seed=seed, transition=Transition())
        self._again.clear()
        self._stream.begin(seed, controls.knobs)
        self.schedule.begin(controls)
        self._history.forget()
        self.video.beginning = beginning
        self._branch_off(0, self.branch)

    def rewind(self, frame: int, left: int) -> bool:
        """Back to before the chunk that shows `frame`, or as near as there is a way; from there it is another film.

        Of the one before, `left` was on screen.

        The stream is then `behind` where there is no copy of just that chunk. False: there is no way back.
        """
        target = min(self.chunk, self.model.rhythm.chunk_of(latent_of(frame)))
        mark = self._history.before(target)
        if mark is None:
            return False
        self.leave(left)
        target = min(max(target, mark.chunk), mark.chunk + MOST_AGAIN)
        target = self._again_to(mark.chunk, target)
        self._go_back(mark, target)
        self._history.forget(after=target)
        self.schedule.go_back(target)
        self._branch_off(target, self.branch)
        return True

    def leave(self, frame: int) -> None:
        """Keep the branch that shows `frame`, as far as its history reaches: it is about to be left."""
        target = min(self.chunk, self.model.rhythm.chunk_of(latent_of(max(0, frame))))
        mark = self._history.before(target)
        if mark is None or not mark.chunk <= target <= mark.chunk + MOST_AGAIN or frame < 0:
            return
        past = tuple(entry for entry in self.schedule.past if entry[0] <= target)
        begins = self.video.beginning
        self.branches.add(LeftBranch(self.branch, frame, target, mark.chunk, mark.copy, past, begins))

    def go_to(self, branch: int | None, frame: int) -> bool:
        """On from where that branch was left; the one that shows `frame` is left. False: there is none such."""
        found = None if branch is None else self.branches.take(branch)
        if found is None:
            return False
        self.leave(frame)
        chunk = self._again_to(found.begin, found.chunk)
        self.schedule.go_to(found.past, chunk)
        self._go_back(Mark(found.begin, found.copy), chunk)
        self._history.forget()  # of another branch
        self.video.beginning = found.beginning
        self._branch_off(chunk, found.number)
        return True

    def _again_to(self, begin: int, target: int) -> int:
        """How far chunks from `begin` on can be made again: those that were made of pictures cannot, which are gone,
        nor those that were made under another memory plan."""
        again = begin >= self._held_since and self._pictured.isdisjoint(range(begin, target))
        return target if again else begin

    def _go_back(self, mark: Mark, target: int) -> None:
        """The stream goes back to the mark, and is `behind` by the chunks up to `target`."""
        self._stream.begin(self.schedule.at(mark.chunk).seed, self.schedule.at(max(0, mark.chunk - 1)).knobs)
        self._stream.go_back(mark.copy)
        self._again = deque(range(mark.chunk, target))

    @property
    def behind(self) -> bool:
        """Whether a rewind has chunks to make again before the next one."""
        return bool(self._again)

    def make_again(self) -> None:
        """Make one of them, which nobody sees."""
        controls = self.schedule.at(self._again[0])
        self._stream.set_knobs(controls.knobs)
        self._stream.next_chunk(controls.for_stream)
        self._again.popleft()

    def set_aside(self, *, failed: bool, saved: tuple[int, Copy] | None = None) -> None:
        """Let go of the stream and keep its state on the host, until `go_on`: the model is about to be loaded anew.

        Args:
            failed: the stream broke off in the middle of a chunk, so that the newest copy of its past has to do.
            saved: a copy on the disk and the chunk before which it was made, should there be no other.
        """
        if not failed:
            self._aside = self.chunk, self.copy()
        elif (mark := self._history.before(self.chunk)) is not None:
            self._aside = mark.chunk, mark.copy
        else:
            self._aside = saved or (0, None)
        self._again.clear()
        del self._stream

    def go_on(self) -> int:
        """Go on from what was set aside, with the model as it is held now; returns how many chunks were lost."""
        assert self._aside is not None  # set aside before
        (chunk, copy), self._aside = self._aside, None
        lost, self._held_since = self.chunk - chunk, chunk
        before = self.schedule.at(max(0, chunk - 1)) if copy is not None else self.schedule.controls
        self._stream = self.model.new_stream(before.seed, before.knobs)
        self.video.forget()
        if copy is not None:
            self._stream.go_back(copy)
        elif lost:
            self.schedule.begin(replace(before, transition=Transition()))
        if lost:
            self._history.forget(after=chunk)
            if copy is not None:
                self.schedule.go_back(chunk)
            self._branch_off(chunk, self.branch)
        if self.model.held is not None:
            self._session_log.held(self.model.held.plan, chunk)
        return lost

    def load(self, checkpoint: Checkpoint, copy: Copy) -> None:
        """Go on from where the checkpoint has it; ValueError if the copy does not fit.

        What came after it, on a server that was killed, was another branch.
        """
        self._stream.go_back(copy)
        self.video.forget()
        self.chunk, self.branch = checkpoint.chunk, checkpoint.branch
        self._logged = self.schedule.at(self.chunk - 1) if self.chunk else None
        if checkpoint.running:
            self.branch = max(self.branch, self._session_log.newest_branch)
            self._branch_off(self.chunk, self.branch)

    def close(self) -> None:
        """Let go of everything."""
        self._history.forget()
        self.branches.forget()
        self.video.end("The film is over.")
        if self._aside is None:
            del self._stream
        self._aside = None

    def _numbered(self, chunk: Chunk) -> Chunk:
        """A chunk as the film counts: what shows nothing new is a chunk of the film, and none of the stream."""
        assert chunk.pixels is not None
        begin = self.model.rhythm.start_frame(self.chunk)
        if chunk.index == self.chunk and chunk.pixel.start == begin:
            return chunk
        return replace(chunk, index=self.chunk, pixel=range(begin, begin + len(chunk.pixels)))

    def _catch_up(self) -> None:
        while self._again:
            self.make_again()

    def _branch_off(self, chunk: int, parent: int) -> None:
        self._begun = None
        self._session_log.branch(self.branch + 1, parent, chunk)
        self.branch, self.chunk = self.branch + 1, chunk
        self.video.forget()
        self._logged = self.schedule.at(chunk - 1) if chunk else None
