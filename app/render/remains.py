"""Remains of an interrupted render, held against its journal: only what is proven to be this film is gone on with.

The journal notes every segment with the hash of its bytes and every snapshot with that of its file. What does not match
is made again; what belongs to another film altogether is refused, because the journal alone could not tell which of the
two was asked for. Journals of the version before have no hashes of the film: its frames are counted instead.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open.)

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

from app.atomic import file_hash
from app.errors import RenderFailure, UsageMistake, printable
from app.media.mp4 import film_name
from app.record import sidecar
from app.record.journal import Journal, RenderHistory, Segment
from app.record.request import RenderRequest
from app.script.shot_list import export_native

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Remains:
    """Segments before which the whole film is proven, in order, and a sentence on what is not."""

    segments: tuple[Segment, ...]
    told: str = ""


def examine(part: Path, folder: Path, history: RenderHistory, *, asked: bool) -> Remains:
    """Hold the growing film and the snapshots against the journal.

    Args:
        part: the growing film; it may be gone.
        folder: of the journal and the snapshots.
        history: what the journal tells.
        asked: the film's script was given again, so that the journal is known to be the right one.

    Raises:
        UsageMistake: film and snapshots are another film's than the journal.
        OSError: one of them cannot be read.
    """
    size = part.stat().st_size if part.is_file() else 0
    noted = _plausible(history)
    reached = [segment for segment in noted if segment.bytes <= size]
    hashes = list(_hashes(part, reached)) if reached else []
    if history.hashed:
        right = [segment.film_sha256 == found for segment, found in zip(reached, hashes, strict=True)]
    else:
        right = _counted(part, reached) if reached else []
        reached = [
            segment.model_copy(update={"film_sha256": found}) for segment, found in zip(reached, hashes, strict=True)
        ]
    snapshots = [same for segment in noted if (same := _same_snapshot(folder, segment)) is not None]
    written = size and history.header.film and history.chunks  # a new film has yet to be
    named = film_name(part) if written else ""
    proven = asked or any(right) or any(snapshots) or (named and named == history.header.film)
    contradicted = (named and named != history.header.film) or right or snapshots
    if contradicted and not proven:
        raise UsageMistake(
            f"{folder / 'journal.jsonl'} is not the journal of {part.name}: neither film nor snapshots are what it "
            "notes. Put the right one back, or give the film's prompts and settings together with --resume."
        )
    sound = sum(1 for _ in takewhile(bool, right))
    told = _told(part, size, history, noted, sound, len(right))
    if not history.hashed:  # at least one chunk is made again whose hash is known: other settings would make another
        last = max((chunk.index for chunk in history.expected), default=-1)
        sound = sum(1 for segment in reached[:sound] if segment.chunk <= last)
    return Remains(tuple(reached[:sound]), told)


def finished(request: RenderRequest, history: RenderHistory | None) -> str:
    """A sentence if the film is there already, whole and as it was made; "" if there is still something to do.

    Args:
        request: which film; where it says what the film is to show, the film has to be of that.
        history: of its journal, if there still is one.

    Raises:
        RenderFailure: the film is said to be whole and is another, and nothing is left to mend it from.
        UsageMistake: the film is whole and another than is asked for.
        OSError: it cannot be read.
    """
    output = request.output
    try:
        record = sidecar.read(sidecar.sidecar_path(output)) if output.is_file() else None
    except (UsageMistake, OSError):
        return ""
    if record is None or record.status != "whole":
        return ""
    if history is not None and sidecar.film_hash(history.chunks) != record.film.sha256:
        return ""  # of another film, which replaces this one
    if record.film.file_sha256:
        same, proof = file_hash(output) == record.film.file_sha256, "its bytes are those that were written"
    else:
        same, proof = _frames(output) == record.film.frames, "its frames are all there; no hash of its bytes was noted"
    if not same:
        if history is not None:
            return ""  # put together once more
        raise RenderFailure(
            f"{output} is not the film that {sidecar.sidecar_path(output)} tells of: one of them has changed, and "
            "nothing is left to resume. Put the right one back, or make it again with rivulet replay or --overwrite."
        )
    seed = record.seed if request.seed == -1 else request.seed
    if request.script.shots and (export_native(request.script), seed) != (record.config.script, record.seed):
        what = "of other prompts" if seed == record.seed else f"with seed {record.seed}, not {seed}"
        raise UsageMistake(
            f"{output} is whole already and was made {what}. Add --overwrite instead of --resume, "
            "or give another output."
        )
    return f"{output} is whole already ({proof}); there is nothing to resume."


def take_over(request: RenderRequest) -> str:
    """Rename what an earlier version left of this film under a name that it shared with others; says so, or "".

    That version left the number out of `sale 100%d.mp4`, and all but the name's beginning out of `film.gif.mp4`.

    Raises:
        UsageMistake: another process is at it.
        OSError: it cannot be renamed.
    """
    stem = re.sub(r"[_.-]?%\d*d", "", request.output.stem) or "film"
    folder, part = (request.output.with_name(f"{stem}.part{ending}") for ending in ("", request.output.suffix))
    journal = folder / "journal.jsonl"
    if (
        folder == request.folder
        or (request.folder / "journal.jsonl").exists()
        or not (journal.is_file() and part.is_file())
    ):
        return ""
    with Journal(folder) as old:
        history = old.read()
        if history is None or history.hashed:  # the names of this version are no two films'
            return ""
        part.replace(request.part)
        with suppress(FileNotFoundError):
            (request.folder / "lock").unlink()
            request.folder.rmdir()
        folder.replace(request.folder)
    return f"Taking over {folder}, as an earlier version called what belongs to {printable(request.output.name)}."


def _told(part: Path, size: int, history: RenderHistory, noted: Sequence[Segment], sound: int, reached: int) -> str:
    """A sentence on what does not match, or could not be compared."""
    last = noted[sound - 1].frames if sound else 0
    if sound < reached:
        end = noted[sound].frames
        return f"{part} is damaged between frame {last} and frame {end}; what follows frame {last} is made again."
    if reached < len(noted):
        what = "ends too early" if size else "is gone"
        return f"{part} {what}: {noted[-1].frames} frames were noted as safe; what follows frame {last} is made again."
    if history.chunks and not size:
        return f"{part} is gone; the film is made again."
    if not history.hashed:
        return (
            "The journal is of an earlier version, which noted no hashes of the film: "
            "its frames were counted and the next chunk is compared, its other pictures and settings could not be."
        )
    return ""


def _plausible(history: RenderHistory) -> list[Segment]:
    """The noted segments, as far as they agree with the chunks before them and with each other."""
    frames = [0]
    for chunk in history.chunks:
        frames.append(frames[-1] + chunk.shown)
    whole = [
        segment
        for segment in history.segments
        if 0 < segment.chunk < len(frames) and segment.frames == frames[segment.chunk] and segment.bytes > 0
    ]
    for number, (before, segment) in enumerate(pairwise(whole), 1):
        if segment.chunk <= before.chunk or segment.bytes <= before.bytes:
            return whole[:number]
    return whole


def _hashes(part: Path, segments: Sequence[Segment]) -> Iterator[str]:
    """sha256 of the film's bytes before each segment, from the one before it on."""
    with part.open("rb") as file:
        for segment in segments:
            digest = hashlib.sha256()
            while (rest := segment.bytes - file.tell()) > 0 and (block := file.read(min(rest, _BLOCK))):
                digest.update(block)
            yield digest.hexdigest()


def _same_snapshot(folder: Path, segment: Segment) -> bool | None:
    """Whether a segment's snapshot is what was noted; None where there is none any more."""
    if segment.snapshot is None or not (path := folder / Path(segment.snapshot).name).is_file():
        return None
    return file_hash(path) == segment.sha256


def _counted(part: Path, segments: Sequence[Segment]) -> list[bool]:
    """Whether as many frames as noted decode in the film's bytes before each segment."""
    places = list(_decoded(f"subfile,,start,0,end,{segments[-1].bytes},,:{part.absolute()}"))
    return [bisect_left(places, segment.bytes) == segment.frames for segment in segments]


def _frames(film: Path) -> int:
    """How many frames of a film decode, up to the first that does not."""
    return sum(1 for _ in _decoded(str(film.absolute())))


def _decoded(name: str) -> Iterator[int]:
    """Where in the file each frame lies, as long as they decode."""
    import av
    from av.error import FFmpegError

    with suppress(FFmpegError, IndexError), av.open(name, "r", format="mp4") as film:
        video = film.streams.video[0]
        video.codec_context.options = {"err_detect": "explode"}
        for packet in film.demux(video):
            if packet.is_corrupt or (packet.pts is not None and len(packet.decode()) != 1):
                return
            if packet.pos is not None:
                yield packet.pos
