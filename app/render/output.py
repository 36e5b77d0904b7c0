"""Output of a render: the growing file, its segments, and what is noted about every chunk.

Between two segments everything is on the disk: the frames, the stream's snapshot and the journal's line, in this
order, so that whatever the journal names is there.
"""

import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from app.loading.model import Opened
from app.media.mp4 import FilmWriter, viewing_scale
from app.media.stills import AnimatedImage, PngSequence, sink_kind
from app.record.journal import KEPT, Journal, Segment
from app.record.sidecar import ChunkRecord, ReusedRecord
from app.script.timeline import Timeline
from pipelines.types import Chunk


class Film:
    """A growing MP4 with its journal; or pictures, which have no segments and cannot be gone on with.

    Args:
        path: where it grows; its ending says what it is.
        journal: where chunks and segments are noted.
        timeline: what is to be shown; the last chunk is trimmed to its frames.
        fps: frames a second of the file.
        scale: enlargement; 0 brings small films near a pleasant size.
        crf: x264's constant rate factor.
        preset: x264's.
        segment_chunks: chunks a segment.
        begin: where to go on; None begins the film.
        keep: write over what `path` holds, rather than to cut it off first.
        name: what the growing film is called in its journal.
    """

    def __init__(
        self,
        path: Path,
        journal: Journal,
        timeline: Timeline,
        *,
        fps: Fraction,
        scale: int,
        crf: int,
        preset: str,
        segment_chunks: int,
        begin: Segment | None = None,
        keep: bool = False,
        name: str = "",
    ) -> None:
        self.path = path
        self.timeline = timeline
        self.next, self.frames, self._size = (begin.chunk, begin.frames, begin.bytes) if begin else (0, 0, 0)
        self.fresh = 0
        self.height = self.width = 0
        self.scale = scale
        self._journal = journal
        self._fps, self._crf, self._preset, self._segment_chunks = fps, crf, preset, segment_chunks
        self._begun = self.next
        self._keep, self._name = keep, name
        self._writer: FilmWriter | PngSequence | AnimatedImage | None = None

    @property
    def whole(self) -> bool:
        """Whether every frame is there."""
        return self.frames >= self.timeline.frames

    @property
    def seconds(self) -> float:
        """Length of the film so far."""
        return self.frames / self.timeline.fps

    def begin_chunk(self, opened: Opened, *, at_once: bool = False) -> None:
        """Begin a segment if it is time for one, or `at_once`; call before each chunk."""
        if self.next == self._begun or not isinstance(self._writer, FilmWriter):
            return
        if self.next % self._segment_chunks and not at_once:
            return
        size, film_sha256 = self._writer.begin_segment()
        path = self._journal.snapshot_path(self.next)
        saved = opened.save(path)
        self._journal.segment(
            Segment(
                chunk=self.next,
                frames=self.frames,
                bytes=size,
                snapshot=path.name if saved else None,
                sha256=saved or None,
                film_sha256=film_sha256,
            )
        )

    def add(self, chunk: Chunk, memory: int) -> ChunkRecord:
        """Append a chunk's frames, as many as are shown, and note it."""
        if chunk.pixels is None:
            raise ValueError("a chunk without pixels cannot be shown")
        shown = chunk.pixels[: self.timeline.frames - self.frames]
        if self._writer is None:  # the first chunk knows the size
            self.height, self.width = shown.shape[1:3]
            self.scale = self.scale or viewing_scale(self.height, self.width)
            self._writer = self._open()
        start = time.perf_counter()
        self._writer.write(shown)
        self.frames += len(shown)
        self.fresh += len(shown)
        self.next += 1
        record = ChunkRecord(
            index=chunk.index,
            epoch=chunk.epoch,
            latent=(chunk.latent.start, chunk.latent.stop),
            frames=(chunk.pixel.start, chunk.pixel.stop),
            shown=len(shown),
            prompt=chunk.prompt,
            sha256=chunk.sha256,
            drift=chunk.drift,
            memory=memory,
            seconds=chunk.seconds | {"encode": time.perf_counter() - start},
            said=chunk.said,
            reused=None if chunk.reused is None else ReusedRecord(**asdict(chunk.reused)),
        )
        self._journal.chunk(record)
        return record

    def missing_bytes(self, opened: Opened) -> int:
        """What the rest of the film will take if it goes on as it began: itself, its final copy and its snapshots."""
        here = self._writer.size if isinstance(self._writer, FilmWriter) else self.path.stat().st_size
        film = round(here / self.frames * (2 * self.timeline.frames - self.frames))
        if self.timeline.chunks <= self._segment_chunks:
            return film
        snapshots = self._journal.snapshots()
        size = snapshots[-1].stat().st_size if snapshots else _state_bytes(opened)
        return film + (KEPT + 1 - len(snapshots)) * size  # a new one is there before the oldest goes

    def _open(self) -> FilmWriter | PngSequence | AnimatedImage:
        kind = sink_kind(self.path)
        if kind == "png":
            return PngSequence(self.path, scale=self.scale)
        if kind != "mp4":
            return AnimatedImage(self.path, fps=self._fps, scale=self.scale)
        return FilmWriter(
            self.path,
            height=self.height,
            width=self.width,
            fps=self._fps,
            scale=self.scale,
            crf=self._crf,
            preset=self._preset,
            frames=self.frames,
            size=self._size,
            keep=self._keep,
            name=self._name,
        )

    def close(self) -> None:
        """Finish the growing file."""
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        """Leave what is whole of the growing file."""
        if self._writer is not None:
            self._writer.abandon()


def _state_bytes(opened: Opened) -> int:
    """What a snapshot takes, tried in the system's folder for such things; 0 if that is full too."""
    with suppress(OSError), tempfile.TemporaryDirectory() as folder:
        opened.save(Path(folder) / "state")
        return (Path(folder) / "state").stat().st_size
    return 0
