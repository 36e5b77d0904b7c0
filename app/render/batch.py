"""Batch of films from settings: the scripts are read, a request is made for each, and a batch goes on after a failure.

A batch runs for a night without anybody there, so what is wrong with every film stops it before the first, and what
is wrong with one is told at the end, after the others.
"""

import os
import secrets
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from app.config.readers import SEED_LIMIT, check_enlarged, choose
from app.config.settings import Resolved, Settings
from app.config.table import OF_VIDEO
from app.errors import (
    EXIT_HANGUP,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
    RenderFailure,
    UsageMistake,
    explain,
    printable,
    shorten,
)
from app.loading.engine_request import EngineRequest
from app.loading.model import OneModel, StreamOpener
from app.media.virtual_camera import NAME
from app.record.beginning import read_beginning
from app.record.request import LEFT_OUT, SEGMENT_CHUNKS, RenderRequest
from app.render.estimate import dry_run
from app.render.exporting import export
from app.render.from_video import video_request
from app.render.judging import judge
from app.render.render import check_request, render
from app.script.importers import load_script, switch_at
from app.script.script import SOFT_CHUNKS, Script, script_of
from pipelines.types import TRANSITIONS, Transition
from weights.catalog import MODELS

USUAL_FILE, USUAL_FOLDER, USUAL_PICTURE = "out.mp4", "out", "frame_%06d.png"
_AS_BEGUN = Script(())
"""The script of a film that goes on with what it was begun with."""


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What a person decides for this run and no other; `video` is whether its films are made of one."""

    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    as_json: bool = False
    json_progress: bool = False
    accept_licence: tuple[str, ...] = ()
    export: Path | None = None
    video: bool = False


def film(
    resolved: Resolved, flags: RunFlags, elsewhere: Callable[[list[RenderRequest], Console], int] | None = None
) -> int:
    """Do what a command line asked for and return its exit code; `elsewhere` makes films that are not made here."""
    console = Console(highlight=False, markup=False, emoji=False)
    requests = film_requests(resolved, flags)
    if flags.export is not None:
        fps = None if resolved.settings.fps is None else float(Fraction(resolved.settings.fps))
        told = export(requests, flags.export, fps=fps, overwrite=flags.overwrite)
        if not flags.as_json:
            console.print(printable(told), soft_wrap=True)
        if not flags.dry_run:
            return EXIT_OK
    opener = OneModel()
    if flags.dry_run:
        if len(requests) > 1:
            judge_all(requests, opener)
        if not flags.as_json:
            for name, value, origin in resolved.table():
                if origin != "default":
                    console.print(printable(f"{name} = {value}  ({origin})"), soft_wrap=True)
        return max(dry_run(request, console=console, as_json=flags.as_json) for request in requests)
    if elsewhere is not None:
        return elsewhere(requests, console)
    if flags.video and resolved.settings.output == NAME:
        from app.render.on_air import show

        return show(requests[0], console=console)
    if len(requests) == 1:
        return render(requests[0], console=console)
    return render_batch(requests, console=console, opener=opener)


def film_requests(resolved: Resolved, flags: RunFlags, scripts: Sequence[Script] | None = None) -> list[RenderRequest]:
    """One request a film, of these scripts or those that the settings name.

    Raises:
        UsageMistake: a script that cannot be read, or flags that do not go together.
    """
    settings = resolved.settings
    if not flags.video and (odd := sorted(resolved.given & OF_VIDEO)):
        raise UsageMistake(
            f"{odd[0]} ({resolved.origin[odd[0]]}) is for films made of a video. Say rivulet v2v, or leave it out."
        )
    if scripts is None:
        scripts = [_AS_BEGUN] if flags.resume and _says_nothing(settings) else read_scripts(resolved)
    batch = settings.prompts is not None or len(scripts) > 1
    if flags.resume and flags.overwrite:
        raise UsageMistake("--resume goes on with a film and --overwrite throws it away. Give one of them.")
    seeds = _seeds(settings, len(scripts), flags.resume and batch)
    outputs = _outputs(settings, len(scripts)) if batch else [_output(settings)]
    engine = _engine(resolved, flags)
    check_enlarged("--scale", settings.height, settings.width, settings.scale)
    fps = Fraction(settings.fps) if settings.fps and "fps" in resolved.given else None
    return [
        RenderRequest(
            script=replace(script, pictures=None),
            output=output,
            engine=engine,
            length=settings.length,
            seed=seed,
            fps=fps,
            scale=settings.scale,
            crf=settings.crf,
            encoder_preset=settings.encoder_preset,
            segment_chunks=settings.segment_chunks or SEGMENT_CHUNKS,
            overwrite=flags.overwrite,
            resume=flags.resume,
            report=_beside(settings.report, output, batch),
            audio=None if settings.audio is None else Path(settings.audio),
            json_progress=flags.json_progress,
            left_out=tuple(name for name in LEFT_OUT if not getattr(settings, name)),
            video=None if settings.input is None else video_request(settings, fps),
            beginning=read_beginning(
                {"image": settings.image, "extend": settings.extend, "reference": settings.reference}, script.pictures
            ),
        )
        for script, output, seed in zip(scripts, outputs, seeds, strict=True)
    ]


def _says_nothing(settings: Settings) -> bool:
    """Whether no prompt is given: a film that is resumed knows its own."""
    return not settings.prompt and settings.script is None and settings.prompts is None


def read_scripts(resolved: Resolved) -> list[Script]:
    """The scripts that the settings name; a transition that somebody gave replaces the scripts' own default.

    Raises:
        UsageMistake: nothing to show, or a file that cannot be read.
    """
    settings = resolved.settings
    transition = _transition(settings)
    if settings.script is not None or settings.prompts is not None:
        file = settings.script or settings.prompts or ""
        try:
            scripts = load_script(
                Path(file), as_videos=settings.prompts is not None, switch_frame_indices=settings.switch_frame_indices
            )
        except UsageMistake as mistake:
            if os.path.lexists(file):
                raise
            say = f"--prompt {shlex.quote(printable(shorten(file, 60)))}"
            raise UsageMistake(f"{str(mistake).rstrip('.')}, or say {say} to film these words.") from mistake
        if "transition" in resolved.given:
            scripts = [replace(script, transition=transition) for script in scripts]
        return scripts
    if not settings.prompt:
        raise UsageMistake(
            'There is no prompt. Say what to show, for example: rivulet render "a red ball bounces over the sea"'
        )
    script = script_of(settings.prompt, transition=transition)
    return [script if settings.switch_frame_indices is None else switch_at(script, settings.switch_frame_indices)]


def render_batch(requests: Sequence[RenderRequest], *, console: Console, opener: StreamOpener | None = None) -> int:
    """Check films, render them one after the other and return the exit code; Ctrl-C ends all of them.

    Args:
        requests: a film each.
        console: for what is said.
        opener: of their streams; one that loads the model once if None.

    Raises:
        RenderFailure: some films could not be made; the others were.
        UsageMistake, ValueError, OSError: one of them cannot be made as it was asked for, so none was begun; or
            already the first could not.
    """
    opener = opener or OneModel()
    folder = requests[0].output.parent
    fresh = not folder.exists()
    make_folder(folder)
    try:
        judge_all([request for request in requests if check_request(request)], opener)
    except BaseException:
        if fresh:
            with suppress(OSError):
                folder.rmdir()
        raise
    failed: list[str] = []
    for index, request in enumerate(requests):
        if not request.json_progress:
            console.print(f"Film {index + 1} of {len(requests)}: {request.output}", soft_wrap=True)
        try:
            code = render(request, console=console, opener=opener)
        except Exception as error:
            if index == 0:
                raise
            console.print(printable(f"{request.output}: {explain(error)[0]}"), style="red", soft_wrap=True)
            failed.append(request.output.name)
            continue
        if code in (EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_TERMINATED):
            return code
        if code != EXIT_OK:
            failed.append(request.output.name)
    if failed:
        raise RenderFailure(
            f"{len(failed)} of {len(requests)} films in {folder} are not there ({', '.join(failed[:5])}). "
            "Correct what was said above and run the same command with --resume."
        )
    return EXIT_OK


def make_folder(folder: Path) -> None:
    """Where a batch of films goes; UsageMistake if it cannot be there."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageMistake(
            f"{folder} cannot be a folder for films ({error.strerror}). Give another --output."
        ) from error


def judge_all(requests: Sequence[RenderRequest], opener: StreamOpener) -> None:
    """Refuse what the model of a batch cannot make; its films differ in their scripts, not in their engine."""
    if requests:
        opened = opener(requests[0].engine, 0)
        for request in requests:
            judge(request, opened)


def _transition(settings: Settings) -> Transition:
    kind = choose(settings.transition, TRANSITIONS, "transition")
    if kind != "soft":
        return Transition(kind)
    return Transition("soft", SOFT_CHUNKS if settings.transition_chunks is None else settings.transition_chunks)


def _engine(resolved: Resolved, flags: RunFlags) -> EngineRequest:
    settings = resolved.settings
    for name in flags.accept_licence:
        parts = [part.name for spec in MODELS.values() for part in spec.weights if part.licence_tick]
        choose(name, [*MODELS, *dict.fromkeys(parts)], "model", "--accept_licence")
    return EngineRequest(
        preset=resolved.preset,
        model=settings.model if "model" in resolved.given else None,
        untrained=settings.untrained,
        device=settings.device,
        threads=settings.threads,
        height=settings.height if {"height", "width"} & resolved.given else None,
        width=settings.width if {"height", "width"} & resolved.given else None,
        models_dir=None if settings.models_dir is None else Path(settings.models_dir),
        offline=settings.offline,
        accepted_licences=frozenset(flags.accept_licence),
        loras=settings.lora,
        vae=settings.vae,
        ema=settings.use_ema,
        vram=settings.vram,
        attention=settings.attention,
        parallel=settings.parallel or "",
        gpus=settings.gpus,
    )


def _seeds(settings: Settings, count: int, resumed_batch: bool) -> list[int]:
    """A seed a film: the same, one more each, or drawn by each film itself (-1)."""
    first = settings.seed
    if settings.seed_mode == "random":
        return [-1] * count
    if count == 1:
        return [first]
    if first == -1:
        if resumed_batch:
            raise UsageMistake("--seed -1 would draw other seeds than before. Give the one in the first film's .json.")
        first = secrets.randbelow(2**31)
    step = int(settings.seed_mode == "increment")
    return [(first + index * step) % SEED_LIMIT for index in range(count)]


def _output(settings: Settings) -> Path:
    """Where a film goes; `pictures/` is a folder of PNGs."""
    output = settings.output or USUAL_FILE
    return Path(output) / USUAL_PICTURE if output.endswith(("/", os.sep)) else Path(output)


def _outputs(settings: Settings, count: int) -> list[Path]:
    folder = Path(settings.output or USUAL_FOLDER)
    if folder.suffix.lower() in (".mp4", ".gif", ".webp") and not folder.is_dir():
        what = "A file of prompts makes a folder of films" if settings.prompts else f"{count} films need a folder"
        raise UsageMistake(f"{what}, and {folder} is a file name. Give for example --output {folder.stem}.")
    width = max(3, len(str(count - 1)))
    return [folder / f"{index:0{width}d}.mp4" for index in range(count)]


def _beside(report: str | None, output: Path, batch: bool) -> Path | None:
    """Where a film's report goes: of several films, each beside its film."""
    if report is None:
        return None
    return output.with_suffix(".html") if batch else Path(report)
