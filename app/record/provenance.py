"""Provenance of a film: what it was made with, so that it can be asked for again as it was, or at another quality.

A render remembers its script; a live film becomes one here: its prompts where they were on screen.
Chunks of another preset begin elsewhere, so a script is fitted to them before it is rendered again.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from app.config.lengths import FASTEST_FPS, LONGEST_SECONDS, Length, Rhythm
from app.config.settings import Layer, given_by_flags
from app.config.table import READERS
from app.errors import UsageMistake, printable, shorten
from app.loading.model import rhythm_of
from app.loading.system import as_data, same_system, system_of
from app.media.mp4 import viewing_scale
from app.record.beginning import BeginningRequest
from app.record.held import MOST_PLANS, PlanRecord
from app.record.request import SEGMENT_CHUNKS
from app.record.session_log import ChunkControls, SessionLog, read_log, shots_of
from app.record.sidecar import FORMAT, Carried, Config, FilmRecord, PictureRecord, carried, shot_records
from app.record.video import VideoRequest
from app.script.script import Script, ScriptShot, check_script
from app.script.shot_list import export_native, parse_native
from app.script.timeline import Timeline, resolve
from pipelines.presets import PRESETS
from pipelines.presets.knobs import KNOBS, KnobError, apply_knobs, knob_values
from pipelines.types import in_words

LIVE = "live"
"""The status of a film that is, or comes from, a live film."""
_STEPS = {"num_inference_steps", "denoising_step_list"}
_USUAL: dict[str, object] = {
    "scale": 0,
    "crf": 18,
    "encoder_preset": "veryfast",
    "untrained": False,
    "lora": [],
    "vae": "auto",
    "use_ema": None,
    "vram": None,
    "attention": "auto",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a film was made with.

    Attributes:
        kind: a render, or what was on screen of a live film.
        source: what it was read from, for errors.
        script: as it is for chunks of `rhythm`, with its end.
        timed: the same shots, every one at a second.
        frames: how many it has, at `fps` a second.
        settings: by the names of the flags of `rivulet render`; those of the preset alone are left out.
        rhythm: of its chunks; None if this version does not know the preset.
        notes: sentences about what cannot be the same.
        video: what it was made of; its input is the name alone.
        beginning: what it began with, likewise.
    """

    kind: Literal["film", "take"]
    source: str
    script: Script
    timed: Script
    fps: float
    frames: int
    seed: int
    settings: Mapping[str, Any]
    rhythm: Rhythm | None
    notes: tuple[str, ...] = ()
    video: VideoRequest | None = None
    beginning: BeginningRequest | None = None

    def kept(self, changed: Collection[str]) -> dict[str, Any]:
        """The settings that stay when those named `changed` are others: a preset has its own, a model its size."""
        gone = set(changed)
        if "preset" in gone:
            gone |= KNOBS.keys()
        if gone & {"model", "height", "width"}:
            gone |= {"size", "fps", "lora", "vae", "use_ema", "vram", "attention"} if "model" in gone else {"size"}
        if gone & _STEPS:
            gone |= _STEPS
        return {name: value for name, value in self.settings.items() if name not in gone}

    def layer(self, changed: Collection[str]) -> Layer:
        """What stays, as a place that settings come from."""
        given = given_by_flags(self.kept(changed))
        return {name: replace(each, origin="film", label=f"{self.source}: {name}") for name, each in given.items()}

    def script_for(self, rhythm: Rhythm, fps: float) -> Script:
        """The script for chunks of `rhythm` at `fps` frames a second."""
        return self.script if (rhythm, fps) == (self.rhythm, self.fps) else fitted(self.timed, rhythm, fps)


def provenance_of(record: Carried, source: str) -> Provenance:
    """What a film was made with.

    Raises:
        UsageMistake: the record is damaged.
    """
    config = record.config
    script = replace(parse_native(config.script, source), pictures=None)  # which a record has a field for
    fps = Fraction(READERS["fps"](f"{source}: fps", config.fps))
    if len(script.shots) != len(record.shots) or not 0 < config.frames <= LONGEST_SECONDS * FASTEST_FPS:
        raise UsageMistake(f"{source}: its shots or its length are damaged. Give another copy of it.")
    shots = tuple(
        replace(shot, at=Length(recorded.requested.second, "s"))
        for shot, recorded in zip(script.shots, record.shots, strict=True)
    )
    timed = replace(script, shots=shots, end=Length(round(float(config.frames / fps), 6), "s"))
    check_script(timed)
    settings, notes, rhythm = _of_preset(config)
    if config.height is not None and config.width is not None:
        settings["size"] = f"{config.width}x{config.height}"
    settings |= {name: value for name in _USUAL if (value := getattr(config, name)) != _USUAL[name]}
    if config.plans and config.plans[-1].why == "memory":  # its preset has what that took of window and precision
        settings["vram"] = replace(config.plans[-1].held, keys="full", window="full").written
    return Provenance(
        kind="take" if record.status == LIVE else "film",
        source=source,
        script=replace(script, end=Length(config.frames, "f")),
        timed=timed,
        fps=float(fps),
        frames=config.frames,
        seed=record.seed,
        settings=settings | {"model": record.model.name, "seed": record.seed, "fps": str(fps)},
        rhythm=rhythm,
        notes=tuple(notes),
        video=None if config.video is None else config.video.request(),
        beginning=None if config.beginning is None else config.beginning.request(),
    )


def provenance_of_log(log: SessionLog, source: str) -> Provenance:
    """What was on screen of a live film.

    Raises:
        UsageMistake: the log is damaged.
    """
    provenance = provenance_of(record_of_log(log, source), source)
    if made := next((chunk.source for chunk in log.chunks if chunk.source), None):
        note = f"It was made of a {made}, too; it is filmed from its words alone."
        provenance = replace(provenance, notes=(*provenance.notes, note))
    if len({chunk.controls.knobs for chunk in log.chunks}) == 1:
        return provenance
    note = "Settings changed while it played; it is filmed under those of its end from the beginning."
    return replace(provenance, notes=(*provenance.notes, note))


def record_of_log(log: SessionLog, source: str) -> Carried:
    """What a film of a live session carries: its script, and all that a render remembers.

    Raises:
        UsageMistake: the log is damaged.
    """
    header, last = log.header, log.chunks[-1].controls
    fps = Fraction(header.fps).limit_denominator(1001) if 1 <= header.fps <= FASTEST_FPS else Fraction(0)
    if not fps:
        raise UsageMistake(f"{source}: its frame rate is damaged. Give another copy of it.")
    frames = sum(chunk.shown for chunk in log.chunks)
    rhythm = _rhythm(log)
    timed = Script(_shots(log), end=Length(round(float(frames / fps), 6), "s"), place=source)
    check_script(timed)
    script = fitted(timed, rhythm, float(fps))
    timeline = resolve(script, length=Length(frames, "f"), fps=float(fps), rhythm=rhythm)
    knobs, system = header.knobs, header.system
    if header.preset in PRESETS and last.knobs:
        try:
            preset = apply_knobs(apply_knobs(PRESETS[header.preset], header.knobs), dict(last.knobs))
        except KnobError as error:
            told = shorten(printable(str(error)), 200)
            raise UsageMistake(f"{source}: its settings cannot be used ({told}). Film it anew.") from None
        knobs, system = {name: as_data(value) for name, value in knob_values(preset).items()}, system_of(preset)
    digest = hashlib.sha256()
    for chunk in log.chunks:
        digest.update(f"{chunk.sha256} {chunk.shown}\n".encode())
    return Carried(
        format=FORMAT,
        status=LIVE,
        seed=log.chunks[0].controls.seed,
        config=Config(
            script=export_native(script),
            frames=frames,
            preset=header.preset,
            knobs=knobs,
            system=system,
            untrained=header.untrained,
            device=header.device,
            threads=header.threads,
            height=header.height,
            width=header.width,
            fps=str(fps),
            scale=0,
            crf=18,
            segment_chunks=SEGMENT_CHUNKS,
            lora=header.lora,
            vae=header.vae,
            use_ema=header.use_ema,
            vram=header.vram,
            attention=header.attention,
            plans=_plans(log),
        ),
        model=header.model,
        versions=header.versions,
        machine=header.machine,
        film=FilmRecord(
            frames=frames,
            seconds=frames / header.fps,
            fps=header.fps,
            height=header.height,
            width=header.width,
            scale=viewing_scale(header.height, header.width),
            crf=18,
            sha256=digest.hexdigest(),
        ),
        shots=shot_records(timeline),
    )


def tags_of(log: SessionLog, source: str, pictures: PictureRecord | None = None) -> dict[str, str]:
    """Metadata of a film of this session, whose pictures are these.

    Raises:
        UsageMistake: the log is damaged.
    """
    record = record_of_log(log, source).model_copy(update={"pictures": pictures})
    return {
        "title": in_words(log.chunks[-1].controls.prompt),
        "comment": f"Rivulet live, preset {record.config.preset}, seed {record.seed}",
        "rivulet": carried(record),
    }


def film_tags(log: Path, film: Path | None = None) -> dict[str, str]:
    """Metadata of a film that is saved while it plays: of all that its log holds so far, and the hash of its pictures.

    They are hashed as they are coded: to decode an hour of them would take the film that plays its time.

    A recording is worth more than what it carries, so one whose log cannot be read carries nothing.
    """
    from app.record.pictures import picture_record

    try:
        pictures = None if film is None else picture_record(film, [], decode=False)
        return tags_of(read_log(log), str(log), pictures)
    except (UsageMistake, ValueError, OSError) as error:
        _log.warning("a film was saved without its settings: %s", error)
        return {}


def fitted(script: Script, rhythm: Rhythm, fps: float) -> Script:
    """A script whose shots and end are at seconds, moved to where chunks begin; its notes say what is left out.

    A shot shorter than a chunk gives way to the one after it, and a blend to its shot's length.
    """
    assert script.end is not None
    chunks = Timeline(fps, rhythm, max(1, script.end.frames(fps, rhythm))).chunks
    shots: list[tuple[int, ScriptShot]] = []
    for shot in script.shots:
        frame = 0 if shot.at is None else shot.at.frames(fps, rhythm)
        chunk = bisect_left(range(chunks + 1), frame, key=rhythm.start_frame)
        if chunk >= chunks:
            continue
        if shots and shots[-1][0] >= chunk:
            chunk = shots.pop()[0]
        shots.append((chunk if shots else 0, shot))
    ends = [chunk for chunk, _ in shots[1:]] + [chunks]
    kept: list[ScriptShot] = []
    for (chunk, shot), end in zip(shots, ends, strict=True):
        transition = shot.transition or script.transition
        if transition.chunks:
            transition = replace(transition, chunks=min(transition.chunks, end - chunk))
        at = Length(round(rhythm.start_frame(chunk) / fps, 6), "s")
        kept.append(replace(shot, at=at, transition=None if transition == script.transition else transition))
    lost = len(script.shots) - len(kept)
    note = (f"{lost} of {len(script.shots)} prompts lasted less than a chunk and are left out.",) if lost else ()
    return replace(script, shots=tuple(kept), notes=note)


def _shots(log: SessionLog) -> tuple[ScriptShot, ...]:
    """The prompts of a session where they were on screen; a guidance that was set is written to each."""
    steps = list(shots_of(log))
    steered = any(controls.guidance_scale is not None for _, controls in steps)
    usual = log.header.knobs.get("guidance_scale", 1.0)
    if isinstance(usual, bool) or not isinstance(usual, int | float):
        raise UsageMistake("The session's log names a guidance_scale that is no number. Restore the log.")
    shots: list[ScriptShot] = []
    before: ChunkControls | None = None
    for frame, controls in steps:
        guidance = controls.guidance_scale if controls.guidance_scale is not None else usual
        changed = before is not None and controls.prompt != before.prompt
        shots.append(
            ScriptShot(
                at=Length(round(frame / log.header.fps, 6), "s"),
                prompt=controls.prompt,
                transition=controls.transition if changed else None,
                parameters=(("guidance_scale", float(guidance)),) if steered else (),
            )
        )
        before = controls
    return tuple(shots)


def _plans(log: SessionLog) -> list[PlanRecord]:
    """How its model was held, from the chunks on at which that changed."""
    plans: list[PlanRecord] = []
    now = ""
    for chunk in log.chunks:
        if chunk.plan != now:
            now = chunk.plan
            plans.append(PlanRecord(chunk=chunk.index, plan=now or "full", why="memory" if chunk.index else "vram"))
    return plans[:MOST_PLANS]


def _rhythm(log: SessionLog) -> Rhythm:
    """How its chunks are divided, read off their frames: 4 a latent frame, and 1 for the first of all."""
    first = max(1, (log.chunks[0].count + 3) // 4)
    return Rhythm(first, max(1, log.chunks[1].count // 4) if len(log.chunks) > 1 else first)


def _of_preset(config: Config) -> tuple[dict[str, Any], list[str], Rhythm | None]:
    """The preset by name and what of it was changed, sentences about what is not as it was, and its rhythm."""
    name, knobs = config.preset, config.knobs
    if name not in PRESETS:
        return {}, [f"This version has no preset {shorten(name, 40)!r}, which made the film; choose another."], None
    base = PRESETS[name]
    usual = {knob: as_data(value) for knob, value in knob_values(base).items()}
    changed = {knob: value for knob, value in knobs.items() if knob in KNOBS and value != usual.get(knob)}
    if "denoising_step_list" in changed:
        changed.pop("num_inference_steps", None)
    try:
        preset = apply_knobs(base, knobs)
    except ValueError:
        return {"preset": name}, [f"Preset {name} has other settings now; those of the film are left out."], None
    notes: list[str] = []
    if config.system and not same_system(config.system, preset):
        notes.append(f"Preset {name} has changed since, so the film will not be quite the same.")
    return {"preset": name, **changed}, notes, rhythm_of(preset)
