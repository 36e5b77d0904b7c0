"""What is asked of a render, and how it is written down so that it can be asked again: to resume, and to replay."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from app.errors import UsageMistake
from app.journal import FORMAT, Header
from app.lengths import Length
from app.opening import EngineRequest, Opened
from app.script import Script
from app.shot_list import export_native, parse_native
from app.sidecar import Config, ModelRecord, as_data, beside, library_versions, machine
from app.timeline import Timeline
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import apply_knobs, knob_values

SEGMENT_CHUNKS = 24
"""Chunks of a segment: what a kill can cost. 24 chunks of 12 frames are 18 seconds of film."""


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """What to render, as the command line understood it.

    `seed` -1 draws one, `fps` None takes the model's own, `length` None the script's, `scale` 0 enlarges small films
    for viewing. `resume` goes on with a film that did not finish; with an empty script, with whatever it was begun
    with. `segment_chunks` is what a kill can cost.
    """

    script: Script
    output: Path
    engine: EngineRequest
    length: Length | None = None
    seed: int = 0
    fps: Fraction | None = None
    scale: int = 0
    crf: int = 18
    overwrite: bool = False
    resume: bool = False
    report: Path | None = None
    audio: Path | None = None
    json_progress: bool = False
    segment_chunks: int = SEGMENT_CHUNKS

    @property
    def part(self) -> Path:
        """Where the film grows until it is whole: out.part.mp4, which plays too."""
        return beside(self.output, f".part{self.output.suffix}")

    @property
    def folder(self) -> Path:
        """Where the journal and the snapshots of an unfinished film lie."""
        return beside(self.output, ".part")


def config_of(request: RenderRequest, opened: Opened, timeline: Timeline, fps: Fraction) -> Config:
    """Write a request down with everything resolved."""
    preset = request.engine.preset
    return Config(
        script=export_native(request.script),
        frames=timeline.frames,
        preset=preset.name,
        knobs={name: as_data(value) for name, value in knob_values(preset).items()},
        system=system_of(preset),
        untrained=request.engine.untrained,
        device=opened.device,
        threads=opened.threads,
        height=request.engine.height,
        width=request.engine.width,
        fps=str(fps),
        scale=request.scale,
        crf=request.crf,
        segment_chunks=request.segment_chunks,
    )


def header_of(request: RenderRequest, opened: Opened, timeline: Timeline, fps: Fraction, seed: int) -> Header:
    """What the journal of a film begins with: the request, and everything else that decides its bits."""
    return Header(
        format=FORMAT,
        seed=seed,
        config=config_of(request, opened, timeline, fps),
        model=ModelRecord(name=opened.model, sha256=opened.checksum),
        versions=library_versions(),
        machine=machine(),
    )


def request_of(config: Config, *, seed: int, model: str, source: str, output: Path) -> RenderRequest:
    """Ask again for what was written down.

    Args:
        config: of the film's .json, its journal or its metadata.
        seed: of its noise.
        model: its name or folder.
        source: where the config was read, for errors.
        output: the film to make.

    Raises:
        UsageMistake: this version of Rivulet has no such preset, or it has changed.
    """
    if config.preset not in PRESETS:
        raise UsageMistake(f"{source}: this version has no preset {config.preset!r}. Use the one that made the film.")
    try:
        preset = apply_knobs(PRESETS[config.preset], config.knobs)
        fps = Fraction(config.fps)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageMistake(f"{source}: its settings cannot be used ({error}). Render it from its prompts.") from None
    if not same_system(preset, config.system):
        raise UsageMistake(
            f"{source}: preset {config.preset!r} has changed since. Use the version of Rivulet that made the film."
        )
    return RenderRequest(
        script=parse_native(config.script, source),
        output=output,
        engine=EngineRequest(
            preset=preset,
            model=model,
            untrained=config.untrained,
            device=config.device,
            threads=config.threads,
            height=config.height,
            width=config.width,
        ),
        length=Length(config.frames, "f"),
        seed=seed,
        fps=fps,
        scale=config.scale,
        crf=config.crf,
        segment_chunks=config.segment_chunks,
    )


def system_of(preset: Preset) -> dict[str, Any]:
    """What of a preset decides pictures; its title is for people, and says what held before any knob."""
    return {name: value for name, value in as_data(preset).items() if name != "title"}


def same_system(preset: Preset, told: Mapping[str, Any]) -> bool:
    """Whether a film's record tells of this preset; older ones name a setting, `settle`, that no preset ever used."""
    cache: Any = told.get("cache")
    if isinstance(cache, dict):
        settings = cast("dict[str, Any]", cache)
        told = {**told, "cache": {name: value for name, value in settings.items() if (name, value) != ("settle", None)}}
    return dict(told) == system_of(preset)


def reconcile(request: RenderRequest, before: Header) -> RenderRequest:
    """Fill in what a resuming command left open (threads, a drawn seed) with what the film was begun with."""
    if not request.script.shots:
        begun = request_of(
            before.config,
            seed=before.seed,
            model=before.model.name,
            source=str(request.folder / "journal.jsonl"),
            output=request.output,
        )
        return replace(
            begun, resume=True, report=request.report, audio=request.audio, json_progress=request.json_progress
        )
    engine = request.engine
    if engine.threads is None:
        engine = replace(engine, threads=before.config.threads)
    seed = before.seed if request.seed == -1 else request.seed
    return replace(request, engine=engine, seed=seed, segment_chunks=before.config.segment_chunks)
