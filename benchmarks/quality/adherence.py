"""Whether films show what was asked for: one fresh film a held-out prompt, each attribute judged right or wrong.

The films that are furthest from their prompts are kept as a picture, chosen by the scorer and by nobody's taste.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.pages.figure_file import save_figure
from benchmarks.quality.intervals import share
from benchmarks.quality.studio import Progress, Studio, play
from pipelines.presets import Preset
from training.captions import held_out_prompts
from training.scorer import ALONE, ATTRIBUTES, Scorer, Verdict
from training.world import MOTIONS, ClipSpec

JUDGED = ("color", "shape", "motion", "scene")
"""What counts; the size is reported beside them."""
EXTRAS = tuple(name for name in (*ALONE, "companion") if name not in (*JUDGED, "size"))
"""What else a prompt can ask for; only some of the rich prompts do."""
RICH = 0.5
"""Rich prompts for every plain one."""
CHOICES: dict[str, tuple[str, ...]] = {**ATTRIBUTES, "motion": MOTIONS}
SPEED_WITHIN = 0.2
WORST, MOMENTS = 6, 6
"""Films in the picture of the worst, and moments of each."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one film should show, and what the scorer says it shows."""

    asked: ClipSpec
    verdict: Verdict

    @classmethod
    def of(cls, scorer: Scorer, film: Tensor, asked: ClipSpec) -> Self:
        """Judge a film [T, 3, H, W]; of two objects the one that the prompt names first is compared first."""
        return cls(asked, scorer.judge(film).facing(asked))

    def right(self, name: str) -> bool:
        """Whether an attribute is as it was asked for; "all" is all that count."""
        if name == "all":
            return all(self.right(each) for each in JUDGED)
        return getattr(self.verdict.facing(self.asked), name) == getattr(self.asked, name)

    @property
    def wrong(self) -> tuple[str, ...]:
        return tuple(name for name in JUDGED if not self.right(name))

    @property
    def frozen(self) -> bool:
        """The object was asked to move and stands still."""
        return self.asked.motion != "still" and self.verdict.motion == "still"

    @property
    def badness(self) -> tuple[int, float]:
        """Attributes that are wrong, and how sure the scorer is of what it sees in their place."""
        return len(self.wrong), sum(self.verdict.confidences[name] for name in self.wrong)


def tally(judged: Sequence[Judgement]) -> dict[str, Any]:
    """Shares of films that are right, with intervals, and the speeds of what moves as it was asked to."""
    result: dict[str, Any] = {name: _count(name, judged) for name in (*JUDGED, "size", "all")}
    speeds = [each.verdict.speed for each in judged if each.right("motion") and each.verdict.speed > 0]
    near = sum(abs(speed - 1) <= SPEED_WITHIN for speed in speeds)
    result["speed"] = {
        "median": float(np.median(speeds)) if speeds else float("nan"),
        "quartiles": [float(np.quantile(speeds, at)) for at in (0.25, 0.75)] if speeds else None,
        "within": share(near, len(speeds)),
    }
    return result


def tally_under(
    studio: Studio,
    preset: Preset,
    asked: Sequence[tuple[str, ClipSpec]],
    *,
    seed: int,
    seconds: float,
    done: Callable[[], object],
) -> dict[str, Any]:
    """Shares, as of `tally`, and frames a second of films of the same prompts and seeds under any preset."""
    judged: list[Judgement] = []
    frames, spent = 0, 0.0
    for index, (text, spec) in enumerate(asked):
        stream = studio.stream(seed + index, preset)
        begun = perf_counter()
        film = play(stream, text, seconds)
        spent += perf_counter() - begun
        frames += len(film)
        judged.append(Judgement.of(studio.scorer, film, spec))
        done()
    return {**tally(judged), "fps": frames / spent}


def confusion(judged: Sequence[Judgement]) -> dict[str, dict[str, dict[str, int]]]:
    """Attribute -> what was asked -> what was seen -> how many films."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for name in JUDGED:
        rows = table[name] = {choice: {} for choice in CHOICES[name]}
        for each in judged:
            row = rows.setdefault(getattr(each.asked, name), {})
            seen = getattr(each.verdict, name)
            row[seen] = row.get(seen, 0) + 1
    return table


def conditions(judged: Sequence[Judgement]) -> dict[str, dict[str, dict[str, Any]]]:
    """What else a clip can have (a pattern, weather, a companion ...) -> its kinds -> films in which it is right, and
    films in which the four that count are right beside it.
    """
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for name in EXTRAS:
        kinds: dict[str, list[Judgement]] = {}
        for each in judged:
            asked = getattr(each.asked, name)
            kinds.setdefault(asked if isinstance(asked, str) else "none" if asked is None else "one", []).append(each)
        table[name] = {
            kind: {"own": _count(name, some), "all": _count("all", some)} for kind, some in sorted(kinds.items())
        }
    return table


def _count(name: str, judged: Sequence[Judgement]) -> dict[str, Any]:
    return share(sum(each.right(name) for each in judged), len(judged))


def measure(studio: Studio, *, prompts: int, seconds: float, sheet: Path | None = None) -> dict[str, Any]:
    """Render and judge; every film has its own seed, equal from run to run.

    The figures are of plain prompts, which name one object, its motion and a scene. Rich ones, half as many again, ask
    for all else that the world has, and are counted apart.

    Args:
        studio: the model.
        prompts: films of plain prompts.
        seconds: of each.
        sheet: where the picture of the worst films goes; None for none.
    """
    rich = max(1, round(RICH * prompts))
    asked = [*held_out_prompts(prompts, seed=0), *held_out_prompts(rich, seed=5, simple=False)]
    judged: list[Judgement] = []
    worst: list[tuple[int, Tensor]] = []
    progress = Progress(studio.report, "adherence", len(asked))
    for index, (text, spec) in enumerate(asked):
        film = play(studio.stream(index), text, seconds)
        judged.append(Judgement.of(studio.scorer, film, spec))
        worst.append((index, film[np.linspace(0, len(film) - 1, MOMENTS).round().astype(int)]))
        worst = sorted((w for w in worst if judged[w[0]].wrong), key=lambda w: judged[w[0]].badness, reverse=True)[
            :WORST
        ]
        progress.add()
    failures = [
        {
            "prompt": asked[index][0],
            "seed": index,
            "asked": {name: getattr(judged[index].asked, name) for name in judged[index].wrong},
            "seen": {name: getattr(judged[index].verdict, name) for name in judged[index].wrong},
        }
        for index, _ in worst
    ]
    if sheet is not None and worst:
        picture = contact_sheet([(caption(row), film) for row, (_, film) in zip(failures, worst, strict=True)])
        save_figure(picture, sheet, failures)
    return {
        "prompts": prompts,
        "seconds_a_film": seconds,
        **tally(judged[:prompts]),
        "confusion": confusion(judged[:prompts]),
        "rich": {"prompts": rich, **tally(judged[prompts:]), "conditions": conditions(judged[prompts:])},
        "worst": failures,
    }


def caption(failure: dict[str, Any]) -> str:
    """A failure in a line."""
    seen = ", ".join(f"{failure['seen'][name]} for {asked}" for name, asked in failure["asked"].items())
    return f"{failure['prompt']}: {seen}"


def contact_sheet(rows: Sequence[tuple[str, Tensor]], side: int = 128) -> Image.Image:
    """A row a film: a line about it over its moments, [T, 3, H, W] uint8."""
    label, gap = 22, 4
    width = max(len(film) for _, film in rows) * (side + gap) - gap
    sheet = Image.new("RGB", (width, len(rows) * (side + label + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (text, film) in enumerate(rows):
        top = number * (side + label + gap)
        draw.text((0, top + 4), text, fill="#333333", font=font)
        for column, frame in enumerate(film):
            picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * (side + gap), top + label))
    return sheet
