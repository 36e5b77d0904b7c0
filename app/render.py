"""Render prompts into a film file: the headless job behind `rivulet render`.

Everything a person can get wrong is checked before the model loads; then one loop asks the stream for chunks
and hands them to the encoder. The stream comes from `open_stream`, so that the job can be tested without a
model.
"""

import hashlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self

from rich.console import Console

from app import sidecar
from app.errors import EXIT_INTERRUPTED, EXIT_OK, RenderFailure, UsageMistake, explain, printable, shorten
from app.opening import EngineRequest, Opened, open_stream
from app.progress import Progress
from app.timeline import Length, Timeline, share_equally
from app.video import FilmWriter, finalise, viewing_scale
from pipelines.types import Chunk, Controls, Transition

_RECACHE = Transition("recache")


class StreamOpener(Protocol):
    """Loads a model and builds its stream."""

    def __call__(self, request: EngineRequest, seed: int) -> Opened: ...


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """What to render, as the command line understood it.

    `seed` -1 draws one, `fps` None takes the model's own, `scale` 0 enlarges small films for viewing.
    """

    prompts: tuple[str, ...]
    output: Path
    length: Length
    duration: str
    engine: EngineRequest
    seed: int = 0
    fps: Fraction | None = None
    transition: Transition = _RECACHE
    scale: int = 0
    crf: int = 18
    overwrite: bool = False

    @property
    def part(self) -> Path:
        """Where the film grows until it is whole: out.part.mp4, which plays too."""
        return self.output.with_name(f"{self.output.stem}.part{self.output.suffix}")


class Interrupt:
    """Ctrl-C asks for an orderly end after the chunk in hand; a second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, number: int, at: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # Not print: the signal may come in the middle of one, whose buffer is then in use.
        os.write(2, b"\nFinishing the file with what is done; Ctrl-C again stops at once.\n")


class Film:
    """The file being made: trims to the exact length, hashes what is shown, and writes it.

    The encoder opens with the first chunk, which knows the size.
    """

    def __init__(self, request: RenderRequest, timeline: Timeline) -> None:
        self.request = request
        self.timeline = timeline
        self.chunks: list[sidecar.ChunkRecord] = []
        self.frames = 0
        self.height = self.width = self.scale = 0
        self._hash = hashlib.sha256()
        self._writer: FilmWriter | None = None

    @property
    def sha256(self) -> str:
        """Hash of every shown uint8 RGB frame so far."""
        return self._hash.hexdigest()

    @property
    def seconds(self) -> float:
        """Length of the film so far."""
        return self.frames / self.timeline.fps

    def add(self, chunk: Chunk) -> int:
        """Append a chunk and return how many of its frames are shown."""
        if chunk.pixels is None:
            raise ValueError("a chunk without pixels cannot be shown")
        shown = chunk.pixels[: self.timeline.frames - self.frames]
        if self._writer is None:
            self.height, self.width = shown.shape[1:3]
            self.scale = self.request.scale or viewing_scale(self.height, self.width)
            self._writer = FilmWriter(
                self.request.part,
                height=self.height,
                width=self.width,
                fps=self.request.fps or Fraction(self.timeline.fps),
                scale=self.scale,
                crf=self.request.crf,
            )
        start = time.perf_counter()
        self._writer.write(shown)
        self._hash.update(shown.tobytes())
        self.frames += len(shown)
        self.chunks.append(
            sidecar.ChunkRecord(
                index=chunk.index,
                epoch=chunk.epoch,
                latent=(chunk.latent.start, chunk.latent.stop),
                frames=(chunk.pixel.start, chunk.pixel.stop),
                shown=len(shown),
                prompt=chunk.prompt,
                sha256=chunk.sha256,
                drift=chunk.drift,
                seconds=chunk.seconds | {"encode": time.perf_counter() - start},
            )
        )
        return len(shown)

    def finish(self) -> None:
        """Give the film its real name."""
        if self._writer is not None:
            self._writer.close()
            finalise(self.request.part, self.request.output)

    def abandon(self) -> None:
        """Leave the part that is whole under its part name."""
        if self._writer is not None:
            self._writer.abandon()


def render(request: RenderRequest, *, console: Console, opener: StreamOpener = open_stream) -> int:
    """Render a film and return the exit code: 0, or 130 when Ctrl-C ended it early.

    Raises:
        UsageMistake, ValueError, OSError: something the person can put right.
        RenderFailure: the film could not be finished; what there is of it plays from `request.part`.
    """
    _check_prompts(request.prompts)
    _check_output(request)
    seed = secrets.randbelow(2**31) if request.seed == -1 else request.seed
    begun = time.perf_counter()
    opened = opener(request.engine, seed)
    ready = time.perf_counter()
    unknown = {prompt: opened.read_prompt(prompt) for prompt in request.prompts}
    timeline = share_equally(
        request.prompts,
        request.length,
        fps=float(request.fps or opened.fps),
        rhythm=opened.rhythm,
        transition=request.transition,
    )
    _announce(console, request, opened, timeline, seed, ready - begun)
    _hint(console, unknown)
    film = Film(request, timeline)
    with Interrupt() as interrupt:
        try:
            first = _shoot(opened, film, interrupt, console)
        except BaseException as error:
            film.abandon()
            if not film.frames:
                request.part.unlink(missing_ok=True)
                raise
            left = f"The first {film.seconds:.1f} s play from {request.part}."
            if isinstance(error, KeyboardInterrupt):
                console.print(f"Stopped at once. {left}", highlight=False, markup=False, soft_wrap=True)
                return EXIT_INTERRUPTED
            raise RenderFailure(f"{explain(error)[0]} {left}") from error
    if not film.frames:
        console.print("Nothing was rendered yet, so there is no file.")
        return EXIT_INTERRUPTED
    done = time.perf_counter()
    timing = sidecar.Timing(
        load=ready - begun, first_frame=first - ready, render=done - ready, fps=film.frames / (done - ready)
    )
    record = _record(request, opened, film, seed, timing)
    try:
        sidecar.write(record, sidecar.sidecar_path(request.output))
    except OSError as error:
        raise RenderFailure(f"{explain(error)[0]} The film is whole, its .json is not there.") from error
    _conclude(console, request, record)
    return EXIT_OK if film.frames == timeline.frames else EXIT_INTERRUPTED


def _shoot(opened: Opened, film: Film, interrupt: Interrupt, console: Console) -> float:
    """Run the loop until the film is whole or stopped, and return the moment its first frame was in the file."""
    timeline = film.timeline
    progress = Progress(console, chunks=timeline.chunks, frames=timeline.frames)
    controls = [Controls(shot.prompt, film.request.transition) for shot in timeline.shots]
    first = 0.0
    while film.frames < timeline.frames and not interrupt.asked:
        index = len(film.chunks)
        place = timeline.place(film.frames)
        chunk = opened.stream.next_chunk(controls[timeline.shot_at(index)])
        shown = film.add(chunk)
        first = first or time.perf_counter()
        progress.chunk(place, shown, prompt=chunk.prompt, drift=chunk.drift, memory=opened.memory())
    film.finish()
    return first


def _record(request: RenderRequest, opened: Opened, film: Film, seed: int, timing: sidecar.Timing) -> sidecar.Sidecar:
    whole = film.frames == film.timeline.frames
    return sidecar.Sidecar(
        format=sidecar.FORMAT,
        status="whole" if whole else "ended early by Ctrl-C",
        seed=seed,
        config=sidecar.Config(
            prompts=list(request.prompts),
            duration=request.duration,
            preset=request.engine.preset.name,
            transition=request.transition.kind,
            transition_chunks=request.transition.chunks,
            device=opened.device,
            threads=opened.threads,
            system=sidecar.as_data(request.engine.preset),
        ),
        model=sidecar.ModelRecord(name=opened.model, sha256=opened.checksum, untrained=request.engine.untrained),
        versions=sidecar.library_versions(),
        machine=sidecar.machine(),
        film=sidecar.FilmRecord(
            file=request.output.name,
            frames=film.frames,
            seconds=film.seconds,
            fps=film.timeline.fps,
            height=film.height,
            width=film.width,
            scale=film.scale,
            crf=request.crf,
            sha256=film.sha256,
        ),
        shots=sidecar.shot_records(film.timeline),
        chunks=film.chunks,
        timing=timing,
    )


def _check_prompts(prompts: tuple[str, ...]) -> None:
    if not prompts:
        raise UsageMistake(
            'There is no prompt. Say what to show, for example: rivulet render "a red ball bounces over the sea"'
        )
    for prompt in prompts:
        if not prompt.strip():
            raise UsageMistake("A prompt is empty. Say in a few words what the film should show.")
        if "\0" in prompt or any("\ud800" <= c <= "\udfff" for c in prompt):
            raise UsageMistake(
                f'The prompt "{shorten(printable(prompt), 40)}" holds bytes that are not text. Type it again as UTF-8.'
            )


def _check_output(request: RenderRequest) -> None:
    output = request.output
    if "\0" in str(output):
        raise UsageMistake("The output name holds a NUL byte. Give an ordinary file name such as out.mp4.")
    try:
        _check_output_folder(request)
    except OSError as error:
        raise UsageMistake(
            f"{shorten(str(output), 80)} cannot be written ({error.strerror}). Give another output."
        ) from error


def _check_output_folder(request: RenderRequest) -> None:
    output = request.output
    if output.is_dir():
        raise UsageMistake(f"{output} is a folder. Give a file name in it, for example {output / 'out.mp4'}.")
    if output.suffix.lower() != ".mp4":
        raise UsageMistake(f"{output} does not end in .mp4. Films are MP4 files: give for example {output.stem}.mp4.")
    if not output.parent.is_dir():
        raise UsageMistake(f"There is no folder {output.parent}. Create it, or give another output.")
    for path in (output, sidecar.sidecar_path(output), request.part):
        if path.is_dir():
            raise UsageMistake(f"{path} is a folder and a file of that name is needed. Give another output.")
        if path.exists() and not request.overwrite:
            what = "was left by a render that did not finish" if path == request.part else "exists already"
            raise UsageMistake(f"{path} {what}. Add --overwrite to replace it, or give another output.")
    fresh = not request.part.exists()
    request.part.open("ab").close()  # the only honest test of permissions, read-only systems and quotas
    if fresh:
        request.part.unlink()


def _announce(
    console: Console, request: RenderRequest, opened: Opened, timeline: Timeline, seed: int, load_seconds: float
) -> None:
    lines = [
        f"Preset {request.engine.preset.name}, model {opened.model}, {opened.device}, {opened.threads} threads, "
        f"seed {seed}; loaded in {load_seconds:.1f} s.",
        f"{timeline.frames} frames at {timeline.fps:g} fps = {timeline.frames / timeline.fps:.2f} s, "
        f"{timeline.chunks} chunks:",
    ]
    for number, shot in enumerate(timeline.shots, 1):
        asked = f"asked {shot.requested}, " if shot.requested != shot.actual else ""
        lines.append(f'  shot {number}/{len(timeline.shots)}  {asked}begins {shot.actual}  "{printable(shot.prompt)}"')
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _hint(console: Console, unknown: Mapping[str, Mapping[str, tuple[str, ...]]]) -> None:
    """Name the words the model does not know: they do nothing, and silence would look like a bad model."""
    for word, near in {word: near for words in unknown.values() for word, near in words.items()}.items():
        nearest = f"; nearest it knows: {', '.join(near)}" if near else ""
        text = f'Hint: the model does not know "{printable(word)}"{nearest}.'
        console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _conclude(console: Console, request: RenderRequest, record: sidecar.Sidecar) -> None:
    film = record.film
    size = f"{film.width * film.scale}x{film.height * film.scale}"
    enlarged = f" ({film.width}x{film.height} enlarged {film.scale} times)" if film.scale > 1 else ""
    early = "" if record.status == "whole" else f" ({record.status})"
    console.print(
        f"{request.output}: {film.seconds:.2f} s{early}, {film.frames} frames, {size}{enlarged}, "
        f"{request.output.stat().st_size / 1e6:.1f} MB; first frame after {record.timing.first_frame:.2f} s, "
        f"{record.timing.fps:.1f} fps end to end.\n"
        f"Frames sha256 {film.sha256}; settings, seed and chunk hashes in "
        f"{sidecar.sidecar_path(request.output)}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
