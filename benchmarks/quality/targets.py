"""What the embedded model must reach, and whether it does: one line a figure, read from what was measured.

The command line, docs/quality.md and the model's card print these lines, so that no two of them can disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.adherence import JUDGED
from benchmarks.quality.switching import KINDS

FPS, FIRST_FRAME, LOAD = 24.0, 1.0, 3.5
MEGABYTES, PARAMETERS = 24.0, 12e6
PSNR = 32.0
ADHERENCE = 0.90
SWITCH = 1.5
LOSS = 0.05
"""Of right judgements that a film may lose from its first minute to its last before that counts as a loss."""
CHANGE = 1.0
"""How far its pictures may go meanwhile, in usual spreads of the world's own films."""
SPEED = (0.8, 1.2)
GROWTH = 0.01
SCORER, CHANCE = 0.99, 0.05
"""Right on true films at least; on shuffled prompts within so much of chance."""

NAMES = {"color": "colour", "shape": "shape", "motion": "motion", "scene": "scene", "all": "all four"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: `part` is where it was measured, `passed` None where there is nothing to reach."""

    part: str
    name: str
    value: str
    target: str = ""
    passed: bool | None = None


def figures(parts: Mapping[str, Any]) -> list[Figure]:
    """All lines of the parts there are, in the order of the promise."""
    lines: list[Figure] = []
    for part, read in _READERS.items():
        if part in parts:
            lines += read(parts[part])
        else:
            lines.append(Figure(part, part, "not measured"))
    return lines


def readable(part: str, found: object) -> bool:
    """Whether a part has what its lines need; one that an older benchmark wrote may not."""
    try:
        _READERS[part](found)  # type: ignore[arg-type]  # that is the question
    except (KeyError, TypeError, IndexError):
        return False
    return True


def percent(part: Mapping[str, Any]) -> str:
    """A share with its interval."""
    if not part["of"]:
        return "none"
    return f"{100 * part['share']:.0f} % ({100 * part['low']:.0f} to {100 * part['high']:.0f}) of {part['of']}"


def seconds(value: float | None) -> str:
    """A wait; None stands for never."""
    return "never" if value is None else f"{value:.2f} s"


def _speed(part: Mapping[str, Any]) -> list[Figure]:
    where = f"{part['width']}x{part['height']}, {part['threads']} threads"
    fps, first, load = part["fps_end_to_end"], part["first_frame_s"], part["load_s"]
    return [
        Figure("speed", f"real time, {where}", f"{fps:.1f} fps", f">= {FPS:g} fps", fps >= FPS),
        Figure("speed", "first frame after load", f"{first:.2f} s", f"< {FIRST_FRAME:g} s", first < FIRST_FRAME),
        Figure("speed", "load", f"{load:.2f} s", f"< {LOAD:g} s", load < LOAD),
    ]


def _size(part: Mapping[str, Any]) -> list[Figure]:
    megabytes, count = part["bytes"] / 1e6, sum(part["parameters"].values())
    return [
        Figure("size", "weights", f"{megabytes:.1f} MB", f"<= {MEGABYTES:g} MB", megabytes <= MEGABYTES),
        Figure("size", "parameters", f"{count / 1e6:.2f} M", f"<= {PARAMETERS / 1e6:g} M", count <= PARAMETERS),
    ]


def _scorer(part: Mapping[str, Any]) -> list[Figure]:
    worst = min(JUDGED, key=lambda name: part[name]["share"])
    off = {name: abs(each["share"] - each["chance"]) for name, each in part["shuffled"].items()}
    far = max(off, key=lambda name: off[name])
    value = f"{NAMES[worst]} {percent(part[worst])}"
    return [
        Figure("scorer", "scorer on true films, least", value, f">= {SCORER:.0%}", part[worst]["share"] >= SCORER),
        Figure(
            "scorer",
            "scorer on shuffled prompts, furthest from chance",
            f"{NAMES[far]} {part['shuffled'][far]['share']:.1%}",
            f"{part['shuffled'][far]['chance']:.1%} +- {CHANCE:.0%}",
            off[far] <= CHANCE,
        ),
    ]


def _reconstruction(part: Mapping[str, Any]) -> list[Figure]:
    found = part["psnr_db"]
    return [
        Figure("reconstruction", "autoencoder", f"{found:.1f} dB", f">= {PSNR:g} dB", found >= PSNR),
        Figure("reconstruction", "all four behind the autoencoder", percent(part["all"])),
        Figure("reconstruction", "all four behind it, rich clips", percent(part["rich"]["all"])),
    ]


def _adherence(part: Mapping[str, Any]) -> list[Figure]:
    lines = [
        Figure("adherence", NAMES[name], percent(part[name]), f">= {ADHERENCE:.0%}", part[name]["share"] >= ADHERENCE)
        for name in JUDGED
    ]
    lines.append(Figure("adherence", "all four", percent(part["all"])))
    lines.append(Figure("adherence", "all four, rich prompts", percent(part["rich"]["all"])))
    low, high = SPEED
    speed: float | None = part["speed"]["median"]
    value, passed = "nothing moves as it was asked to", False
    if speed is not None and not math.isnan(speed):
        value, passed = f"{speed:.2f} (within 20 %: {percent(part['speed']['within'])})", low <= speed <= high
    return [*lines, Figure("adherence", "speed over the world's own, median", value, f"{low:g} to {high:g}", passed)]


def _switch(part: Mapping[str, Any]) -> list[Figure]:
    lines: list[Figure] = []
    for kind in KINDS:
        row = part[kind]
        middle = row["all"]["median"]
        told = f"{seconds(middle)}, reached {percent(row['reached'])}"
        first = kind == "recache"
        passed = (middle is not None and middle <= SWITCH) if first else None
        lines.append(Figure("switch", f"switch, {kind}", told, f"<= {SWITCH:g} s" if first else "", passed))
    return lines


def _drift(part: Mapping[str, Any]) -> list[Figure]:
    lines: list[Figure] = []
    for memory in ("sink", "no sink"):
        if memory not in part:
            continue
        row, must = part[memory], memory == "sink"
        first, last = row["first"]["right"], row["last"]["right"]
        span = f"{part['minutes']:g} min, {memory}"
        kept = f"{first:.0%} -> {last:.0%} right"
        lines += [
            Figure("drift", f"drift over {span}", kept, "no loss" * must, last >= first - LOSS if must else None),
            Figure(
                "drift",
                f"pictures over {span}",
                f"{row['change']:.2f} spreads",
                f"<= {CHANGE:g}" if must else "",
                row["change"] <= CHANGE if must else None,
            ),
            Figure(
                "drift",
                f"freezes in {part['films']} films of {span}",
                str(row["freezes"]),
                "0" if must else "",
                row["freezes"] == 0 if must else None,
            ),
        ]
    return lines


def _memory(part: Mapping[str, Any]) -> list[Figure]:
    frames = f"memory, latent frame {part['baseline_frame']} to {part['latent_frames']}"
    name = frames + ("" if part["decode"] else " (--no_decode)")
    return [Figure("memory", name, f"{part['growth']:+.2%}", f"< {GROWTH:.0%}", part["growth"] < GROWTH)]


def _steps(part: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure("steps", f"{row['steps']} steps, all four", "not in this schedule")
        if "impossible" in row
        else Figure(
            "steps",
            f"{row['steps']} steps, all four" + (" (the preset's)" if row["steps"] == part["own"] else ""),
            f"{percent(row['all'])}, {row['fps']:.0f} fps",
        )
        for row in part["rows"]
    ]


def _plans(part: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure("plans", f"{row['plan']} ({row['name']}), all four", f"{percent(row['all'])}, {row['fps']:.0f} fps")
        for row in part["rows"]
    ]


def _video(part: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure(
            "video",
            f"video to video, noise {row['noise']:g}",
            f"follows {percent(row['follows'])}, all four {percent(row['all'])}",
        )
        for row in part["rows"]
    ]


_READERS = {
    "speed": _speed,
    "size": _size,
    "reconstruction": _reconstruction,
    "adherence": _adherence,
    "switch": _switch,
    "drift": _drift,
    "memory": _memory,
    "steps": _steps,
    "plans": _plans,
    "video": _video,
    "scorer": _scorer,
}
