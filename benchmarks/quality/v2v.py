"""Video to video as `rivulet v2v` makes it: what each strength leaves of a video, and whether it keeps up with one.

The source shows the object of the prompt on the same way, in another colour and scene (benchmarks/quality/
video_to_video.py): a film follows it where its object is, and follows the words in what differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import UsageMistake
from benchmarks.benchmark import EngineBenchmark, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from benchmarks.quality.studio import Studio

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)


def measure(
    studio: Studio,
    *,
    prompts: int,
    seconds: float,
    strengths: tuple[float, ...] = STRENGTHS,
    camera: bool = False,
    hold: float = 1.0,
    near: bool = False,
) -> dict[str, Any]:
    """The same prompts, seeds and sources under every strength.

    Args:
        studio: the model.
        prompts: held out from training; a film each.
        seconds: of each film.
        strengths: how much of the video is given up to the prompt.
        camera: the sources are what a camera would see (benchmarks/quality/camera_clip.py), not painted ones.
        hold: how much of their detail enters (app/media/flatten.py).
        near: all but their coloured things becomes the scene of the words (benchmarks/quality/bringing_near.py).
    """
    import numpy as np
    import torch

    from app.media.flatten import flattened
    from benchmarks.quality.adherence import Judgement, tally
    from benchmarks.quality.bringing_near import brought_near, ground_of
    from benchmarks.quality.camera_clip import camera_clip
    from benchmarks.quality.intervals import share
    from benchmarks.quality.painted import paint
    from benchmarks.quality.studio import Progress
    from benchmarks.quality.video_to_video import NEAR, distance, other_looks
    from training.captions import held_out_prompts

    asked, fps = held_out_prompts(prompts, seed=6), int(studio.card.get("fps", 16))
    progress = Progress(studio.report, "v2v", len(strengths) * prompts)
    rows: list[dict[str, Any]] = []
    for strength in strengths:
        judged: list[Judgement] = []
        apart: list[float] = []
        spent: list[float] = []
        for index, (text, spec) in enumerate(asked):
            side, frames = studio.size[0], round(seconds * fps) // 4 * 4 + 1
            painted = None if camera else paint(other_looks(spec, index), side, frames).permute(0, 2, 3, 1).numpy()
            source = camera_clip(spec, side, frames, index) if painted is None else painted
            source = np.stack([flattened(picture, hold) for picture in source])
            if near:
                source = brought_near(source, ground_of(studio, text, seed=9000 + index))
            film, took = _made(studio, source, text, strength, seed=6000 + index)
            judged.append(Judgement.of(studio.scorer, torch.from_numpy(film).permute(0, 3, 1, 2), spec))
            apart.append(distance(judged[-1].verdict.track, spec))
            spent.append(len(film) / took)
            progress.add()
        follows = share(sum(gap < NEAR for gap in apart), len(apart))
        row = {"strength": strength, "apart": median(apart), "follows": follows, "pictures_a_second": median(spent)}
        rows.append({**row, **tally(judged)})
    about = {"prompts": prompts, "seconds_a_film": seconds, "fps": fps, "camera": camera, "hold": hold, "near": near}
    return {"benchmark": "v2v", **about, "rows": rows}


def _made(
    studio: Studio, source: NDArray[np.uint8], text: str, strength: float, *, seed: int
) -> tuple[NDArray[np.uint8], float]:
    """The film of a video [T, H, W, 3], and the seconds of wall time that it took."""
    from time import perf_counter

    import numpy as np

    from pipelines.build import build_stream
    from pipelines.types import Controls
    from pipelines.video import VideoInput

    stream = build_stream(studio.engine.preset, studio.loaded.components, seed=seed, video=True)
    video, controls = VideoInput(stream), Controls(text, strength=strength)
    pieces: list[NDArray[np.uint8]] = []
    begun, entered = perf_counter(), 0
    while entered < len(source):
        frames = source[entered : entered + video.wants]
        pieces += [piece.pixels for piece in video.push(np.ascontiguousarray(frames), controls)]
        entered += len(frames)
    pieces += [piece.pixels for piece in video.finish(controls)]
    film = np.concatenate(pieces)
    assert len(film) == len(source)
    return film, perf_counter() - begun


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    title = (
        f"{result['prompts']} films of {result['seconds_a_film']:g} s; real time is {result['fps']:g} pictures a second"
    )
    rows = Table("strength", "follows", "apart", "colour", "shape", "motion", "scene", "pictures/s", title=title)
    for row in result["rows"]:
        shares = [f"{100 * row[name]['share']:.0f} %" for name in ("color", "shape", "motion", "scene")]
        rows.add_row(
            f"{row['strength']:g}",
            f"{100 * row['follows']['share']:.0f} %",
            f"{row['apart']:.2f}",
            *shares,
            f"{row['pictures_a_second']:.1f}",
        )
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFilms(EngineBenchmark):
    """What each strength of video to video keeps of a video, and how fast it is."""

    prompts: Annotated[int, typer.Option("--prompts", min=1, max=10_000, help="Films for every strength.")] = 20
    seconds: Annotated[float, typer.Option("--seconds", min=2, max=60, help="Of each film.")] = 4.0
    camera: Annotated[bool, typer.Option("--camera", help="Sources as a camera sees them, not painted ones.")] = False
    hold: Annotated[float, typer.Option("--hold", min=0, max=1, help="How much of a source's detail enters.")] = 1.0
    near: Annotated[bool, typer.Option("--near", help="Before the scene of the words instead of the source's own.")] = (
        False
    )
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """As `measure`, for every strength.

        Raises:
            UsageMistake: the model is not of the painted world, which the scorer judges.
        """
        if self.model is not None:
            raise UsageMistake("Video to video is judged by the embedded model's world: leave out --model.")
        from benchmarks.quality.studio import Studio

        studio = Studio.open(self.engine, run.report)
        return measure(
            studio, prompts=self.prompts, seconds=self.seconds, camera=self.camera, hold=self.hold, near=self.near
        )
