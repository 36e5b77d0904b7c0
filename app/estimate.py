"""What a render will cost, measured by rendering a little of it: `rivulet render --dry_run`.

A guess from a table would be wrong on most machines; a few chunks of the film's own prompts take seconds and are right.
"""

import shutil
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from app.dry_run import Estimate, dry_run_data, dry_run_lines
from app.errors import EXIT_OK
from app.opening import Opened, open_stream
from app.recipe import RenderRequest
from app.script import check_script
from app.sidecar import one_line
from app.timeline import Timeline, resolve
from app.video import FilmWriter, viewing_scale
from pipelines.types import Controls

SHOTS, CHUNKS = 6, 3
"""How many shots are tried, evenly spread over the film, and how many chunks of each."""


def dry_run(request: RenderRequest, *, console: Console, as_json: bool = False) -> int:
    """Print the timeline with what it will take, render no film, and return the exit code.

    Raises:
        UsageMistake, ValueError, OSError: what `render` would refuse.
    """
    check_script(request.script)
    seed = max(request.seed, 0)
    opened = open_stream(request.engine, seed)
    fps = request.fps or Fraction(opened.fps)
    timeline = resolve(request.script, length=request.length, fps=float(fps), rhythm=opened.rhythm)
    estimate = measure(opened, timeline, request, fps)
    if as_json:
        print(one_line(dry_run_data(timeline, estimate, notes=request.script.notes)), file=console.file)
        return EXIT_OK
    for line in dry_run_lines(timeline, estimate, notes=request.script.notes):
        console.print(line, soft_wrap=True)
    free = shutil.disk_usage(request.output.absolute().parent).free if request.output.absolute().parent.is_dir() else 0
    if free < estimate.disk_bytes:
        console.print(
            f"There are only {free / 1e9:.1f} GB free where {request.output} goes: it will not fit.", style="red"
        )
    return EXIT_OK


def measure(opened: Opened, timeline: Timeline, request: RenderRequest, fps: Fraction) -> Estimate:
    """Render the beginnings of some shots and carry the figures over to the whole film.

    The disk holds the growing film and, at the end, its copy under its real name; and three snapshots.
    """
    count = min(SHOTS, len(timeline.shots))
    shots = [timeline.shots[index * len(timeline.shots) // count] for index in range(count)]
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        writer: FilmWriter | None = None
        for number, shot in enumerate(shots):
            if writer is not None:
                writer.begin_segment()  # as often a whole picture as in the film
            guidance = dict(shot.parameters).get("guidance_scale")
            for part in range(CHUNKS):
                begun = time.perf_counter()
                chunk = opened.stream.next_chunk(Controls(shot.prompt, shot.transition, guidance))
                assert chunk.pixels is not None
                if writer is None:
                    height, width = chunk.pixels.shape[1:3]
                    writer = FilmWriter(
                        Path(folder) / "some.mp4",
                        height=height,
                        width=width,
                        fps=fps,
                        scale=request.scale or viewing_scale(height, width),
                        crf=request.crf,
                    )
                writer.write(chunk.pixels)
                if number or part:  # the first chunk pays for what is made once
                    seconds.append((time.perf_counter() - begun) / len(chunk.pixels))
        assert writer is not None
        frames = writer.frames
        writer.close()
        film = writer.size / frames * timeline.frames
        snapshot = Path(folder) / "state"
        opened.save(snapshot)
        state = snapshot.stat().st_size
    return Estimate(
        seconds=sum(seconds) / len(seconds) * timeline.frames,
        disk_bytes=round(2 * film) + 3 * state,
        memory_bytes=opened.memory(),
        basis=f"{film / 1e6:.1f} MB of it the film; measured on {frames} frames of {count} shots on this machine",
    )
