"""What each part of the memory is worth: sink, window and positions changed one at a time, on the same films.

Every setting is what a user could set: a preset and its knobs. Settings share prompts and seeds, so that two of them
are compared film by film. A row is kept as soon as it is measured, and a run that was ended goes on behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.loading.engine_request import EngineRequest
from benchmarks.benchmark import EngineBenchmark, Quick, Run
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import apply_knobs
from pipelines.types import Transition

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.quality.studio import Studio

ABSOLUTE = "longlive"
"""The preset whose policies differ from the embedded one's in positions; its knobs make the rest equal."""
EQUAL = 0.05
"""Of right judgements: a setting that loses no more than that is as good as another."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A memory: frames that are never forgotten, frames seen at most, and how they are counted in time."""

    sink: int
    window: int
    positions: str = "slots"

    @property
    def name(self) -> str:
        return f"sink {self.sink}, window {self.window}" + (", absolute" if self.positions == "absolute" else "")

    def preset(self, base: Preset) -> Preset:
        """This memory under the sampler of `base`, whose positions count slots."""
        start = base if self.positions == "slots" else replace(PRESETS[ABSOLUTE], schedule=base.schedule)
        knobs = {"sink_size": self.sink, "local_attn_size": self.window, "global_sink": False}
        return apply_knobs(start, knobs)


SETTINGS = (
    Setting(3, 12),
    Setting(1, 12),
    Setting(0, 12),
    Setting(0, 3),
    Setting(1, 6),
    Setting(3, 6),
    Setting(0, 6),
    Setting(3, 21),
    Setting(0, 21),
    Setting(3, 12, "absolute"),
    Setting(0, 12, "absolute"),
)
"""The preset's own first. A window of 3 is the chunk itself and has no room for a sink."""
QUICK = (Setting(3, 12), Setting(0, 12))


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is looked at under each setting."""

    films: int = 6
    minutes: float = 3.0
    pairs: int = 12
    before: float = 4.0
    after: float = 6.0


def counts(*, quick: bool, films: int | None, minutes: float | None) -> Counts:
    """What is looked at: everything, or a little; `minutes` is the length of a film."""
    chosen = Counts(films=2, minutes=0.3, pairs=2, before=3.0, after=4.0) if quick else Counts()
    return replace(chosen, films=films or chosen.films, minutes=minutes or chosen.minutes)


def measure(
    engine: EngineRequest,
    amount: Counts,
    *,
    settings: Sequence[Setting] = SETTINGS,
    known: Mapping[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], object] = lambda result: None,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Long films and switches under every setting.

    Args:
        engine: model and preset, whose sampler all share.
        amount: how much to look at.
        settings: in the order of the table.
        known: an earlier result; its rows of the same weights and amount are not measured again.
        keep: called with the result after every row.
        report: told how far it is.
    """
    from benchmarks.quality.studio import Studio

    studio = Studio.open(engine, report)
    result: dict[str, Any] = {"benchmark": "ablation", **studio.identity(), "amount": asdict(amount), "rows": []}
    same = known is not None and all(
        known.get(name) == result[name] for name in ("weights", "preset", "height", "width", "amount")
    )
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in (known or {}).get("rows", ())} if same else {}
    for number, setting in enumerate(settings, 1):
        told = f"{setting.name} (setting {number} of {len(settings)})"
        if setting.name in rows:
            report(f"{told}: measured before")
            continue
        report(told)
        rows[setting.name] = _row(studio, setting, amount)
        result["rows"] = [rows[each.name] for each in SETTINGS if each.name in rows]
        keep(result)
    result["rows"] = [rows[each.name] for each in SETTINGS if each.name in rows]
    return result


def _row(studio: Studio, setting: Setting, amount: Counts) -> dict[str, Any]:
    from benchmarks.quality import drift, switching
    from benchmarks.quality.preset_films import strangers
    from benchmarks.quality.studio import Progress

    preset = setting.preset(studio.engine.preset)
    progress = Progress(studio.report, setting.name, amount.films * amount.minutes, "minutes of film")
    found = drift.long_films(studio, preset, amount.films, amount.minutes, progress)
    turned = switching.measure(
        studio,
        pairs=amount.pairs,
        before=amount.before,
        after=amount.after,
        kinds={"recache": Transition()},
        preset=preset,
    )
    return {
        "name": setting.name,
        **asdict(setting),
        "not_trained_for": strangers(preset, studio.card),
        **found,
        "switch": turned["recache"],
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """What a paper says of a memory, and what this model shows of it: "shown", "not shown" or "the opposite"."""

    text: str
    source: str
    figures: str
    verdict: str


def claims(ablation: Mapping[str, Any], quality: Mapping[str, Any]) -> list[Claim]:
    """Claims that the measured rows can speak to; `quality` are the parts of the quality benchmark."""
    rows = {row["name"]: row for row in ablation.get("rows", ())}
    found = [
        _better(
            rows,
            Setting(0, 12),
            Setting(3, 12),
            "a window without its first frames loses the film, a few of them kept save it",
            "StreamingLLM, arXiv 2309.17453",
        ),
        _as_good(
            rows,
            Setting(0, 21),
            Setting(3, 12),
            "a short window with a sink is as good as a long one, and faster",
            "LongLive, arXiv 2509.22622",
        ),
        _better(
            rows,
            Setting(3, 12, "absolute"),
            Setting(3, 12),
            "positions counted within the memory outlast absolute ones",
            "StreamingLLM; Infinity-RoPE, arXiv 2511.20649",
        ),
    ]
    return [claim for claim in (*found, *_switch_claims(quality.get("switch"))) if claim is not None]


def _ends(row: Mapping[str, Any]) -> list[float]:
    return [film["last"] for film in row["of_films"]]


def _better(rows: Mapping[str, Any], worse: Setting, better: Setting, text: str, source: str) -> Claim | None:
    """A claim that one setting ends better than another."""
    from benchmarks.quality.intervals import paired

    if worse.name not in rows or better.name not in rows:
        return None
    gap = paired(_ends(rows[worse.name]), _ends(rows[better.name]))
    if gap is None:
        return None
    verdict = "shown" if gap[1] > 0 else "the opposite" if gap[2] < 0 else "not shown"
    return Claim(text, source, f"{better.name} over {worse.name}: {_points(gap)}", verdict)


def _as_good(rows: Mapping[str, Any], long: Setting, short: Setting, text: str, source: str) -> Claim | None:
    """A claim that a cheaper setting loses nothing."""
    from benchmarks.quality.intervals import paired

    if long.name not in rows or short.name not in rows:
        return None
    gap = paired(_ends(rows[long.name]), _ends(rows[short.name]))
    if gap is None:
        return None
    faster = rows[short.name]["fps"] / rows[long.name]["fps"]
    shown = gap[1] > -EQUAL and faster > 1
    verdict = "shown" if shown else "the opposite" if gap[2] < -EQUAL else "not shown"
    return Claim(text, source, f"{short.name} over {long.name}: {_points(gap)}; {faster:.2f} times the fps", verdict)


def _points(gap: tuple[float, float, float]) -> str:
    return f"{100 * gap[0]:+.1f} points at the end ({100 * gap[1]:+.1f} to {100 * gap[2]:+.1f})"


def _switch_claims(part: Mapping[str, Any] | None) -> list[Claim]:
    """Of re-cached keys: new words are followed as after a cut, and the picture goes on as if they were kept."""
    from benchmarks.quality.targets import seconds

    if part is None:
        return []
    again, keep, cut = part["recache"], part["keep"], part["cut"]
    apart = again["reached"]["low"] > keep["reached"]["high"]
    against = again["reached"]["high"] < keep["reached"]["low"]
    reached = f"reached {again['reached']['share']:.0%} against {keep['reached']['share']:.0%}"
    source = "LongLive, arXiv 2509.22622"
    return [
        Claim(
            "after a re-cache new words are followed that a kept memory holds back",
            source,
            f"{reached}; median {seconds(again['all']['median'])} against {seconds(keep['all']['median'])}",
            "shown" if apart else "the opposite" if against else "not shown",
        ),
        Claim(
            "a re-cache changes the film without the jump of a cut",
            source,
            f"first step over the usual one: {again['jump']:.1f} against {cut['jump']:.1f}",
            "shown" if again["jump"] < cut["jump"] / 2 else "not shown",
        ),
    ]


HEADINGS = ("beginning", "end", "pictures", "frozen", "speed", "switch", "fps")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A setting's numbers under HEADINGS: right judgements in the first and the last minute, spreads that the
    pictures went, share of the time at rest, speed over the world's own, median switch, fps.
    """
    from benchmarks.quality.targets import seconds

    speed = row["last"]["speed"]["median"]
    return (
        f"{row['first']['right']:.0%}",
        f"{row['last']['right']:.0%}",
        f"{row['change']:.2f}",
        f"{row['frozen']:.0%}",
        "-" if speed is None or math.isnan(speed) else f"{speed:.2f}",
        f"{seconds(row['switch']['all']['median'])} ({row['switch']['reached']['share']:.0%})",
        f"{row['fps']:.1f}",
    )


def table(result: Mapping[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    amount = result["amount"]
    grid = Table(
        "memory",
        *HEADINGS,
        title=f"{amount['films']} films of {amount['minutes']:g} min and {amount['pairs']} switches a setting",
        caption="\n".join(f"{claim.verdict}: {claim.text} ({claim.figures})" for claim in claims(result, {})),
    )
    for row in result["rows"]:
        star = " *" if row["not_trained_for"] else ""
        grid.add_row(row["name"] + star, *cells(row))
    return grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation(EngineBenchmark):
    """What sink, window and positions of the memory are worth; goes on where it was ended."""

    quick: Quick = False
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=1, max=10**6, help="Films of each memory.", show_default="6")
    ] = None
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.2, max=1440, help="Of a film.", show_default="3")
    ] = None
    table = staticmethod(table)

    @property
    def partial(self) -> bool:
        """A glance is none."""
        return self.quick

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(
            self.engine,
            counts(quick=self.quick, films=self.repeats, minutes=self.minutes),
            settings=QUICK if self.quick else SETTINGS,
            known=run.known(),
            keep=run.keep,
            report=run.report,
        )
