"""Request for a render, and how it is written down so that it can be made again: to resume, and to replay."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

from app.atomic import file_hash
from app.config.lengths import Length
from app.config.readers import check_enlarged
from app.errors import UsageMistake, printable, shorten, shorten_path
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened, at_hand
from app.loading.system import as_data, same_system, system_of
from app.media.times import Times
from app.record.beginning import BeginningRecord, BeginningRequest
from app.record.held import PlanRecord, check_plans
from app.record.journal import FORMAT, Header, LeftOut
from app.record.sidecar import Config, ModelRecord, beside, library_versions, machine
from app.record.video import VideoRecord, VideoRequest
from app.script.script import Script
from app.script.shot_list import export_native, parse_native
from app.script.timeline import Timeline
from pipelines.memory_plan import preset_under
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import KnobError, apply_knobs, knob_values
from weights.catalog import MODELS

SEGMENT_CHUNKS = 24
"""Chunks of a segment: what a kill can cost. 24 chunks of 12 frames are 18 seconds of film."""
LEFT_OUT: tuple[LeftOut, ...] = get_args(LeftOut)
"""What a person may ask not to be told of a film, by the names of the settings."""


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """What to render, as the command line understood it.

    `seed` -1 draws one, `fps` None takes the model's own, `length` None the script's, `scale` 0 enlarges small films
    for viewing. `resume` goes on with a film that did not finish; with an empty script, with whatever it was begun
    with. `segment_chunks` is what a kill can cost. `left_out` is what is not to be told: the .mp4's "metadata", the
    .vtt with the "subtitles", the .json ("sidecar").

    `video` is what the film is made of. By it are settled (app/render/from_video.py): `moments`, which of its pictures
    are taken, `times`, when they are shown where their rate varies, and `audio_begin`, the moment of the sound at
    which the film begins. `beginning` is what it begins with, where that is not words alone. `plans` says how it is
    held in memory and from which chunk on, if anything does.
    """

    script: Script
    output: Path
    engine: EngineRequest
    length: Length | None = None
    seed: int = 0
    fps: Fraction | None = None
    scale: int = 0
    crf: int = 18
    encoder_preset: str = "veryfast"
    overwrite: bool = False
    resume: bool = False
    report: Path | None = None
    audio: Path | None = None
    json_progress: bool = False
    segment_chunks: int = SEGMENT_CHUNKS
    left_out: tuple[LeftOut, ...] = ()
    video: VideoRequest | None = None
    times: Times | None = None
    moments: Sequence[int] = ()
    audio_begin: Fraction | None = None
    beginning: BeginningRequest | None = None
    plans: tuple[PlanRecord, ...] = ()

    @property
    def live(self) -> bool:
        """Whether it is made of what a camera or a screen shows now, which nothing can show again."""
        return self.video is not None and not self.video.sha256

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
        system=system_of(preset, video=request.video is not None),
        untrained=request.engine.untrained,
        device=opened.device,
        threads=opened.threads,
        height=request.engine.height,
        width=request.engine.width,
        fps=str(fps),
        scale=request.scale,
        crf=request.crf,
        encoder_preset=request.encoder_preset,
        segment_chunks=request.segment_chunks,
        video=None if request.video is None else VideoRecord.of(request.video),
        lora=list(request.engine.loras),
        vae=request.engine.vae,
        use_ema=request.engine.ema,
        beginning=None if request.beginning is None else BeginningRecord.of(request.beginning),
        vram=request.engine.vram,
        attention=request.engine.attention,
        parallel=opened.parallel,
        plans=list(request.plans),
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
        left_out=request.left_out,
        audio=None if request.audio is None else str(request.audio.absolute()),
        audio_sha256=None if request.audio is None else file_hash(request.audio),
        report=None if request.report is None else str(request.report.absolute()),
        video=None if request.video is None or request.live else str(Path(request.video.input).absolute()),
        beginning=None if request.beginning is None else str(Path(request.beginning.input).absolute()),
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
        UsageMistake: see preset_of; or its script is damaged.
    """
    preset = preset_of(config.preset, config.knobs, config.system, source)
    check_enlarged(f"{source}: scale", config.height, config.width, config.scale)
    return RenderRequest(
        script=replace(parse_native(config.script, source), pictures=None),  # a record opens no file by itself
        output=output,
        engine=EngineRequest(
            preset=preset,
            model=model,
            untrained=config.untrained,
            device=config.device,
            threads=config.threads,
            height=config.height,
            width=config.width,
            loras=tuple(config.lora),
            vae=config.vae,
            ema=config.use_ema,
            vram=config.vram,
            attention=config.attention,
        ),
        length=Length(config.frames, "f"),
        seed=seed,
        fps=Fraction(config.fps),
        scale=config.scale,
        crf=config.crf,
        encoder_preset=config.encoder_preset,
        segment_chunks=config.segment_chunks,
        video=None if config.video is None else config.video.request(),
        beginning=None if config.beginning is None else config.beginning.request(),
        plans=check_plans(config.plans, source),
    )


def preset_of(name: str, knobs: Mapping[str, object], system: Mapping[str, object], source: str) -> Preset:
    """The preset that a film or a live session was made under.

    Args:
        name: of the preset.
        knobs: its settings.
        system: what it was with them, as of `system_of`; empty if that was not written down.
        source: where this was read, for errors.

    Raises:
        UsageMistake: this version of Rivulet has no such preset, its settings cannot be, or it has changed.
    """
    where, shown = printable(shorten_path(source)), printable(shorten(repr(name), 40))
    if name not in PRESETS:
        raise UsageMistake(f"{where}: this version has no preset {shown}. Use the one that made the film.")
    try:
        preset = apply_knobs(PRESETS[name], knobs)
    except KnobError as error:
        told = shorten(printable(str(error)).rstrip("."), 200)
        raise UsageMistake(f"{where}: its settings cannot be used ({told}). Film it anew from its prompts.") from None
    if system and not same_system(system, preset):
        raise UsageMistake(f"{where}: preset {shown} has changed since. Use the version of Rivulet that made the film.")
    return preset


def model_of_record(name: str, source: str, given: str | None, *, models_dir: Path | None = None) -> str:
    """The model that a record names, if it may be loaded: nothing that somebody wrote into a file starts a download
    or opens a folder of this machine.

    Args:
        name: what the record says.
        source: where it was read, for errors.
        given: the model that the person named, who may ask for any.
        models_dir: where downloads lie.

    Raises:
        UsageMistake: nobody asked for this model; the text says how to.
    """
    if given is not None:
        return given
    where, shown = printable(shorten_path(source)), printable(shorten(name, 200))
    if name not in MODELS:
        try:
            there = Path(name).expanduser().is_dir()
        except (OSError, ValueError, RuntimeError):  # no path that this system knows
            there = False
        raise UsageMistake(
            f"{where} was made with the model {shown}, and a record opens no folder by itself. "
            + (f"If you trust that model, add --model {shown}." if there else "Add --model and the folder it is in.")
        )
    if not at_hand(name, models_dir):
        raise UsageMistake(
            f"{where} was made with the model {shown}, whose weights are not here, and a record starts no download. "
            f"To fetch them, add --model {shown}."
        )
    return name


def parts_of_record(loras: Sequence[str], vae: str, source: str, given: Collection[str]) -> None:
    """Refuse a record that names files of this machine which the person did not name: it opens none by itself.

    Args:
        loras: what the record says.
        vae: likewise.
        source: where it was read, for errors.
        given: names of the settings that the person gave.

    Raises:
        UsageMistake: it names a LoRA or an autoencoder's file; the text says how to allow it.
    """
    named = {"lora": loras, "vae": [] if vae in ("auto", "full", "tiny") else [vae]}
    for name, values in named.items():
        if values and name not in given:
            shown = f"--{name} {shlex.quote(printable(shorten(values[0], 80)))}"
            more = f" and {len(values) - 1} more" if values[1:] else ""
            raise UsageMistake(
                f"{printable(shorten_path(source))} was made with {shown}{more}, and a record opens no file by itself. "
                f"If you trust what it names, add {shown}{more}."
            )


def reconcile(request: RenderRequest, before: Header) -> RenderRequest:
    """Fill in what a resuming command left open (threads, a drawn seed, sound) with what the film was begun with.

    What was to be left out stays left out, and more may be.

    Raises:
        UsageMistake: what the film was begun with is not to be had any more.
    """
    request = replace(
        request,
        left_out=tuple(name for name in LEFT_OUT if name in (*request.left_out, *before.left_out)),
        audio=_sound(before) if request.audio is None else request.audio,
        report=Path(before.report) if request.report is None and before.report is not None else request.report,
    )
    plan = request.engine.parallel
    if not plan and request.engine.gpus is None:
        plan = before.config.parallel  # its snapshots are read under any, or in one process
    if not request.script.shots:
        begun = request_of(
            before.config,
            seed=before.seed,
            model=before.model.name,
            source=str(request.folder / "journal.jsonl"),
            output=request.output,
        )
        return replace(
            begun,
            engine=replace(begun.engine, parallel=plan, gpus=request.engine.gpus),
            resume=True,
            report=request.report,
            audio=request.audio,
            json_progress=request.json_progress,
            left_out=request.left_out,
            video=None if begun.video is None else replace(begun.video, input=before.video or begun.video.input),
            beginning=begun.beginning and replace(begun.beginning, input=before.beginning or begun.beginning.input),
        )
    engine = replace(request.engine, parallel=plan)
    plans = check_plans(before.config.plans, str(request.folder / "journal.jsonl"))
    if plans and engine.plan is None:
        under = preset_under(plans[-1].held, engine.preset)
        engine = replace(engine, preset=under or engine.preset, whole=engine.preset)
    if engine.threads is None:
        engine = replace(engine, threads=before.config.threads)
    seed = before.seed if request.seed == -1 else request.seed
    return replace(request, engine=engine, seed=seed, segment_chunks=before.config.segment_chunks, plans=plans)


def _sound(before: Header) -> Path | None:
    """The sound that a film was begun with, as it was then."""
    if before.audio is None:
        return None
    path = Path(before.audio)
    if not path.is_file() or file_hash(path) != before.audio_sha256:
        raise UsageMistake(
            f"{path}, the sound that the film was begun with, is gone or has changed. "
            "Put it back, or give the sound with --audio."
        )
    return path
