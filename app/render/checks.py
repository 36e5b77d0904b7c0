"""Checks of `rivulet replay --check` that need no rendering: the film's record, and the pictures in its file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.atomic import file_hash
from app.config.lengths import Length, Rhythm
from app.errors import printable, shorten
from app.loading.model import rhythm_of
from app.media.mp4 import viewing_scale
from app.media.stills import sink_kind
from app.record import sidecar
from app.record.pictures import Undecodable, distance, picture_record, pictures_hash, tolerance
from app.record.provenance import LIVE
from app.record.request import preset_of
from app.record.sidecar import Carried, ChunkRecord, PictureRecord, Sidecar
from app.script.shot_list import parse_native
from app.script.timeline import Timeline, resolve
from pipelines.types import prompt_text

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: a sentence for people; `proven` is None where there was nothing to check it by.

    Of a record that is not `usable` nothing can be rendered again: it does not say what, or how much.
    """

    proven: bool | None
    sentence: str
    usable: bool = True


def check_record(record: Carried, tags: Carried | None) -> Finding:
    """Whether a record is whole and says one thing: every chunk of its script, hashes that fit each other, and the
    same as the film's own metadata.

    Raises:
        UsageMistake: its settings cannot be used here at all.
    """
    if (wrong := contradiction(record)) is not None:
        return Finding(False, f"it is not whole: {wrong}", usable=False)
    wrong = _of_hashes(record) or (None if tags is None else _other_than(record, tags))
    if wrong is not None:
        return Finding(False, f"it contradicts itself: {printable(shorten(wrong, 200))}")
    film, shots = record.film, len(record.shots)
    told = f"{film.frames} frames, {shots} shot{'s' if shots > 1 else ''}, all hashes consistent"
    if not isinstance(record, Sidecar):
        return Finding(True, f"{told}; of its chunks only one hash over all, for the .json is not there")
    with_film = "; the film's metadata say the same" if tags is not None else ""
    return Finding(True, f"all {len(record.chunks)} chunks, {told}{with_film}")


def contradiction(record: Carried) -> str | None:
    """The first thing in which a record is not one of a whole film, as a clause; None if it is.

    Raises:
        UsageMistake: its settings cannot be used here at all.
    """
    config, film = record.config, record.film
    fps = Fraction(config.fps)
    script = parse_native(config.script, "its script")
    rhythm = _rhythm(record)
    timeline = resolve(script, length=Length(config.frames, "f"), fps=float(fps), rhythm=rhythm)
    early = record.status.startswith("ended early by ")
    enlarged = config.scale or (film.scale if record.status == LIVE else viewing_scale(film.height, film.width))
    for wrong, clause in (
        (record.status not in ("whole", LIVE) and not early, "its status is no status of a film"),
        (film.frames > config.frames, f"it has {film.frames} frames of a film of {config.frames}"),
        (record.status == "whole" and film.frames != config.frames, f"{film.frames} of {config.frames} frames"),
        (abs(film.fps - float(fps)) > 1e-3, f"{film.fps:g} and {float(fps):g} frames a second"),
        (abs(film.seconds - film.frames / film.fps) > 1e-3, f"{film.frames} frames do not last {film.seconds:g} s"),
        (film.crf != config.crf, f"a rate factor of {film.crf} and of {config.crf}"),
        (film.scale != enlarged, f"enlarged {film.scale} times and not {enlarged}"),
        (config.height not in (None, film.height), f"heights of {film.height} and {config.height}"),
        (config.width not in (None, film.width), f"widths of {film.width} and {config.width}"),
        (sidecar.shot_records(timeline) != record.shots, "its shots are not those of its script"),
    ):
        if wrong:
            return clause
    return _of_chunks(record, timeline, rhythm) if isinstance(record, Sidecar) else None


def _of_chunks(record: Sidecar, timeline: Timeline, rhythm: Rhythm) -> str | None:
    chunks, film = record.chunks, record.film
    wanted = Timeline(timeline.fps, rhythm, film.frames).chunks
    if len(chunks) != wanted:
        return f"it lists {len(chunks)} chunks of a film that has {wanted}"
    if sum(chunk.shown for chunk in chunks) != film.frames:
        return "the frames of its chunks are not those of the film"
    for index, chunk in enumerate(chunks):
        if (clause := _of_chunk(chunk, index, timeline, rhythm, last=index + 1 == wanted)) is not None:
            return f"chunk {index} {clause}"
    return None


def _of_chunk(chunk: ChunkRecord, index: int, timeline: Timeline, rhythm: Rhythm, *, last: bool) -> str | None:
    latent = (rhythm.start(index), rhythm.start(index + 1))
    frames = (rhythm.start_frame(index), rhythm.start_frame(index + 1))
    count = frames[1] - frames[0]
    if chunk.index != index or chunk.latent != latent or chunk.frames != frames:
        return "has another number or other frames than the preset gives it"
    if not (0 < chunk.shown <= count if last else chunk.shown == count):
        return f"shows {chunk.shown} of {count} frames"
    if chunk.prompt != prompt_text(timeline.shots[timeline.shot_at(index)].prompt):
        return "has another prompt than its shot"
    return None


def _of_hashes(record: Carried) -> str | None:
    """Which hashes do not fit each other; records of format 3 have none of pictures."""
    chunks = record.chunks if isinstance(record, Sidecar) else None
    if not all(_HASH.fullmatch(each) for each in (record.film.sha256, *(chunk.sha256 for chunk in chunks or ()))):
        return "a hash of its chunks is no sha256"
    if chunks is not None and sidecar.film_hash(chunks) != record.film.sha256:
        return "the hashes of its chunks are not those that the film's hash is made of"
    pictures = record.pictures
    if pictures is None:
        return "the hashes of its pictures are missing" if record.format > 3 and record.status != LIVE else None
    if record.status == "whole" and not pictures.sha256:
        return "its pictures have no hash"
    if pictures.frames != record.film.frames and record.status != LIVE:  # a recording is a part of its take
        return f"its file has {pictures.frames} frames and the film {record.film.frames}"
    hashes = [each for each in (pictures.sha256, pictures.packets, *pictures.chunks) if each]
    if not all(map(_HASH.fullmatch, hashes)):
        return "a hash of its pictures is no sha256"
    if chunks is None or not pictures.sha256:
        return None
    if len(pictures.chunks) != len(chunks) or pictures_hash(pictures.chunks, pictures.frames) != pictures.sha256:
        return "the hashes of its chunks' pictures are not those that the hash of all is made of"
    return None


def _other_than(record: Carried, tags: Carried) -> str | None:
    """Where a .json and its film's own metadata differ."""
    name = _differs(sidecar.same_as_carried(record), sidecar.same_as_carried(tags))
    return None if name is None else f"the film's metadata have another {name} than its .json"


def _differs(one: Any, two: Any, name: str = "") -> str | None:
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in {**one, **two}:  # pyright: ignore[reportUnknownVariableType]
            if (found := _differs(one.get(key), two.get(key), f"{name}.{key}" if name else str(key))) is not None:  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
                return found
        return None
    return None if one == two else name or "content"


def check_pictures(film: Path, record: Carried) -> Finding:
    """Whether the file's pictures, as they are decoded here, are those that were recorded.

    Raises:
        OSError: the file cannot be read.
    """
    known = record.pictures
    if known is None and record.status == LIVE:
        return Finding(None, "not checked, for this recording was made before pictures had hashes")
    decode = known is not None and bool(known.sha256)
    try:
        found = picture_record(film, frames_of_chunks(record) if decode else [], decode=decode)
    except Undecodable as error:
        return Finding(False, f"the file is damaged: {error}")
    if not found.frames:
        return Finding(False, f"there are no pictures in {film.name}")
    size = f"{record.film.width * record.film.scale}x{record.film.height * record.film.scale}"
    if found.layout.partition(" ")[0] != size:
        return Finding(False, f"the file has pictures of {found.layout}, and its record is of {size}")
    frames = record.film.frames if known is None else known.frames
    if found.frames != frames:
        return Finding(False, f"the file has {found.frames} frames, and its record {frames}")
    if known is None:
        return Finding(None, "recorded before pictures had hashes; held against the frames rendered again, see below")
    return _as_recorded(film, record, known, found)


def _as_recorded(film: Path, record: Carried, known: PictureRecord, found: PictureRecord) -> Finding:
    coded = not known.packets or known.packets == found.packets
    shown = not known.sha256 or known.sha256 == found.sha256
    if not coded and not known.sha256:
        return Finding(False, "the file holds other coded pictures than were recorded")
    if not coded and shown:
        return Finding(False, "the file shows the recorded pictures at other times or under other headers")
    if not shown and (not known.packets or not coded):
        return Finding(False, f"the file shows other pictures than were recorded{_where(record, known, found)}")
    by = f"as {found.decoder} decodes them" if known.sha256 else "packet by packet"
    if not shown:
        if known.decoder == found.decoder:
            return Finding(False, f"the file holds the recorded packets, but {found.decoder} shows other pictures")
        told = shorten(printable(known.decoder), 40)
        by = f"packet by packet; {found.decoder} shows them otherwise than {told} did"
    whole = record.film.file_sha256
    if whole and file_hash(film) != whole:
        told = "its pictures are those recorded, but its sound, titles or index were changed"
        return Finding(False, f"the file is not the one that was recorded: {told}")
    rest = "every byte of the file is as it was" if whole else "sound and titles have no hash here and are not checked"
    return Finding(True, f"all {found.frames} frames are those recorded, {by}; {rest}")


def _where(record: Carried, known: PictureRecord, found: PictureRecord) -> str:
    """Where the first difference is, if the hashes of single chunks are known."""
    for index, (old, new) in enumerate(zip(known.chunks, found.chunks, strict=False)):
        if old != new:
            return f", from chunk {index} (frame {_rhythm(record).start_frame(index)}) on"
    return ""


def check_again(film: Path, again: Path, record: Carried, pictures: PictureRecord | None) -> Finding:
    """Whether the file's pictures are those of the frames that were just rendered again into another file.

    Args:
        film: the file.
        again: the new one.
        record: of the film; `check_pictures` has found nothing against it.
        pictures: of the new one, as its record has them.

    Raises:
        OSError: one of them cannot be read.
    """
    if sink_kind(film) != sink_kind(again):
        return Finding(
            None, f"not compared, for {again.name} is of another kind; give --output with the ending of the film"
        )
    same = Finding(True, "the frames rendered again give the same pictures, bit for bit")
    known = record.pictures  # of which the caller has seen that they are the file's
    if known is not None and pictures is not None and _alike(known, pictures):
        return same
    try:
        if pictures is not None and _alike(picture_record(film, frames_of_chunks(record)), pictures):
            return same
        allowed = tolerance(film, record.config.crf)
        apart = distance(film, again, allowed)
    except Undecodable as error:
        return Finding(False, f"the file is damaged: {error}")
    limits = f"at least {allowed.psnr:.0f} dB in every frame and at most {allowed.local:.0f} of 255 in any square"
    if apart.near:
        told = f"{apart.psnr:.1f} dB in the worst frame, {apart.local:.1f} of 255 in the worst square"
        return Finding(True, f"near those of the frames rendered again: {told} (allowed: {limits})")
    where = f", from frame {apart.frame} on" if apart.frame is not None else ""
    why = apart.why or f"{apart.psnr:.1f} dB, {apart.local:.1f} of 255; allowed: {limits}"
    return Finding(False, f"the file does not show the frames that its settings make{where} ({why})")


def _alike(one: PictureRecord, two: PictureRecord) -> bool:
    """Whether two files show the same pictures: by what they are coded as, or by what is decoded."""
    coded, shown = (one.packets, two.packets), ((one.layout, one.sha256), (two.layout, two.sha256))
    return (bool(one.packets) and coded[0] == coded[1]) or (bool(one.sha256) and shown[0] == shown[1])


def frames_of_chunks(record: Carried) -> list[int]:
    """How many frames of the film each chunk shows, worked out from the preset, for metadata do not list them."""
    rhythm, frames = _rhythm(record), record.film.frames
    count = Timeline(record.film.fps, rhythm, frames).chunks
    starts = [min(frames, rhythm.start_frame(index)) for index in range(count + 1)]
    return [end - begin for begin, end in pairwise(starts)]


def _rhythm(record: Carried) -> Rhythm:
    config = record.config
    return rhythm_of(preset_of(config.preset, config.knobs, config.system, "the record"))
