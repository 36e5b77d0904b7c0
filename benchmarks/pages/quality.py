"""docs/quality.md, its plots and the figures in the model's card: `python -m benchmarks.pages.quality`.

Made from benchmarks/results/quality.json, ablation.json and the card alone, so that no figure is typed by hand:
tests/benchmarks/test_quality_page.py makes the page again and compares, and asks every plot which data it is of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages.figure_file import digest, drawn_from, save_figure
from benchmarks.pages.quality_plots import PLOTS, picture
from benchmarks.quality import ablation as ablations
from benchmarks.quality.adherence import JUDGED, caption
from benchmarks.quality.drift import WINDOW
from benchmarks.quality.quality import PARTS
from benchmarks.quality.switching import HOLD, KINDS, LOOK
from benchmarks.quality.targets import LOSS, NAMES, Figure, figures, percent, seconds
from benchmarks.quality.video_to_video import NEAR

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "quality.md"
PICTURES = ROOT / "docs" / "quality"
RESULTS = ROOT / "benchmarks" / "results"
CARD = ROOT / "weights" / "embedded" / "card.json"
MODEL_PAGE = ROOT / "weights" / "embedded" / "README.md"
MARKS = ("<!-- figures: python -m benchmarks.pages.quality -->", "<!-- /figures -->")
"""Around the figures in the model's card for people."""

CAPTIONS = {plot.name: plot.caption for plot in PLOTS}
STATISTICS = "brightness, contrast, saturation, sharpness, layout"

INTRODUCTION = """\
# How good the embedded model is

Every figure is measured on prompts and seeds that training never saw, by the commands below, and judged by a scorer
that is tested itself. This page is made by `python -m benchmarks.pages.quality` from `benchmarks/results`: run the
benchmark, not an editor.

```sh
rivulet bench quality                        # all of it; hours on two cores, each part is kept as it ends
rivulet bench quality --only switch,drift    # some parts; the others stay as they are
rivulet bench quality --quick                # under three minutes; nothing is kept
rivulet bench ablation                       # the memories; goes on where it was ended
python -m benchmarks.pages.quality           # this page, its plots, the card's figures
```
"""

SCORER = """\
## How the scorer is tested

A small network, taught on painted clips alone and never part of a training loss, reads what every frame shows; the
motion is told by fitting each path an object can take (`training/scorer.py`, `training/paths.py`). The same functions
that judge generated films are held against films whose truth is known, here and in tests:

- painted clips must be judged right ({least} at least), and a film held against another film's prompt at chance;
- a painted clip stopped in its middle must be called frozen ({frozen} were), a long painted film never;
- a painted film that changes at a known frame must be seen to change there: the benchmark's time is off by
  {looks} (median; nine of ten within {looks_most}) for looks and {motion} ({motion_most}) for the motion;
- a painted film's speed must be 1 within 5 %: it is {speed};
- blurred, noisy and recoloured pictures, and those behind the autoencoder, must be judged fairly.
"""


def load() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The quality benchmark's result, the ablation's (empty where not measured), and the model's card."""
    found: list[dict[str, Any]] = []
    for file in (RESULTS / "quality.json", RESULTS / "ablation.json", CARD):
        found.append(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {})
    return found[0], found[1], found[2]


def page(quality: Mapping[str, Any], ablation: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """The whole page."""
    parts: Mapping[str, Any] = quality.get("parts", {})
    shown = pictures_of(parts, ablation)
    sections = [INTRODUCTION, _promise(parts, card)]
    if "adherence" in parts:
        sections.append(_adherence(parts["adherence"], shown))
    if "switch" in parts:
        sections.append(_switch(parts["switch"], shown))
    if "steps" in parts:
        sections.append(_steps(parts["steps"], shown))
    if "plans" in parts:
        sections.append(_plans(parts["plans"]))
    if "video" in parts:
        sections.append(_video(parts["video"]))
    if "drift" in parts:
        sections.append(_drift(parts["drift"], shown))
    if ablation.get("rows"):
        sections.append(_ablation(ablation, parts, shown))
    if "scorer" in parts:
        sections.append(_scorer(parts["scorer"]))
    if parts.get("adherence", {}).get("worst"):
        sections.append(_failures(parts["adherence"]))
    return "\n".join(sections)


def pictures_of(parts: Mapping[str, Any], ablation: Mapping[str, Any]) -> dict[str, Any]:
    """Name of each picture there should be -> the data it is drawn from."""
    drawn = {plot.name: plot.data(parts, ablation) for plot in PLOTS}
    worst = parts.get("adherence", {}).get("worst")
    return {name: data for name, data in (drawn | {"worst": worst or None}).items() if data is not None}


def model_page(text: str, quality: Mapping[str, Any]) -> str:
    """The model's card for people with the figures between its marks renewed; without marks it stays as it is."""
    start, stop = MARKS
    parts: Mapping[str, Any] = quality.get("parts", {})
    block = f"{start}\n\n{_table(('figure', 'measured', 'target', ''), _promised(parts))}\n{stop}"
    return re.sub(re.escape(start) + ".*?" + re.escape(stop), lambda _: block, text, flags=re.DOTALL)


def _promised(parts: Mapping[str, Any]) -> list[Sequence[str]]:
    said = {True: "reached", False: "**missed**", None: ""}
    return [(line.name + _marks(parts, line), line.value, line.target, said[line.passed]) for line in figures(parts)]


def _marks(parts: Mapping[str, Any], line: Figure) -> str:
    return " (quick)" if parts.get(line.part, {}).get("quick") else ""


def _promise(parts: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    lines = figures(parts)
    missed = [f"{line.name}: {line.value} ({line.target})" for line in lines if line.passed is False]
    unmeasured = [line.name for line in lines if line.part not in parts]
    text = ["## What it promises, and what it holds", "", _of(parts, card), ""]
    text.append(_table(("figure", "measured", "target", ""), _promised(parts)))
    text.append(
        f"Shares stand with their 95 % intervals (Wilson). No loss: at most {LOSS:.0%} fewer right judgements at the "
        f"end. Pictures: how far {STATISTICS} went, in usual spreads of the painted world's own films."
        + (" Quick: few films, short ones." if any(part.get("quick") for part in parts.values()) else "")
    )
    timed = [part for part in ("speed", "steps") if part in parts]
    busy = [part for part in timed if parts[part].get("load_before", 0) > parts[part]["of"]["threads"] + 1]
    if busy:
        loads = ", ".join(f"{part} {parts[part]['load_before']:.0f}" for part in busy)
        text += ["", f"**On a busy machine** (load average when a part began: {loads}): its times are too long."]
    if missed:
        text += ["", "**Falls short**:", "", *(f"- {line}" for line in missed)]
    if unmeasured:
        text += ["", f"**Not measured**: {', '.join(unmeasured)}."]
    return "\n".join([*text, ""])


def _of(parts: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Which weights were measured, and which part is of others than those that ship."""
    by_version: dict[str, list[str]] = {}
    for part in PARTS:
        if part in parts:
            of = parts[part]["of"]
            by_version.setdefault(f"{of['version']} ({of['weights']}, preset {of['preset']})", []).append(part)
    if len(by_version) == 1 and next(iter(by_version)).startswith(f"{card.get('version')} "):
        return f"Weights {next(iter(by_version))}, {_machine(parts)}."
    told = "; ".join(f"{version}: {', '.join(names)}" for version, names in by_version.items())
    text = f"The weights that ship are version {card.get('version')}. Measured were {told or 'none yet'}"
    return text + (f", {_machine(parts)}." if parts else ".")


def _machine(parts: Mapping[str, Any]) -> str:
    of = next((parts[part]["of"] for part in PARTS if part in parts), None)
    return "" if of is None else f"at {of['width']}x{of['height']} on {of['device']} with {of['threads']} threads"


def _adherence(part: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    text = [
        "## What films show",
        "",
        f"{part['prompts']} held-out prompts, {part['seconds_a_film']:g} s each. Rows are what was asked for, columns "
        "what the scorer saw.",
        "",
        *_picture("adherence", shown),
    ]
    rich = part["rich"]
    rows = [
        (f"{name}: {kind}", percent(found["own"]), percent(found["all"]))
        for name, kinds in rich["conditions"].items()
        for kind, found in kinds.items()
    ]
    text += [
        f"Those prompts name one plain object in its scene. {rich['prompts']} rich ones ask for all else that "
        f"the world has: all four are right in {percent(rich['all'])}.",
        "",
        _table(("rich prompts that ask for", "that is right", "all four are"), rows),
    ]
    return "\n".join(text)


def _switch(part: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    rows = [
        (
            kind,
            percent(part[kind]["reached"]),
            *(seconds(part[kind][name]["median"]) for name in ("all", "looks", "motion")),
            seconds(part[kind]["all"]["p90"]),
            f"{part[kind]['jump']:.1f}",
            percent(part[kind]["adherence"]["all"]),
        )
        for kind in KINDS
    ]
    headings = ("", "reached", "median", "looks", "motion", "9 of 10", "jump", "all four after a second")
    return "\n".join(
        [
            "## A new prompt",
            "",
            f"{part['pairs']} pairs of prompts: {part['seconds_before']:g} s of the first, then from the same moment "
            f"in each way {part['seconds_after']:g} s of the second. Looks count when they stay right for {HOLD:g} s, "
            f"a motion from the first {LOOK:g} s that show it. Jump: the first step of the picture over the usual one.",
            "",
            _table(headings, rows),
            *_picture("switch", shown),
        ]
    )


def _steps(part: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    for row in part["rows"]:
        name = f"{row['steps']}" + (" (the preset's)" if row["steps"] == part["own"] else "")
        if "impossible" in row:
            rows.append((name, row["impossible"], *[""] * len(JUDGED), ""))
        else:
            rows.append((name, *(percent(row[each]) for each in (*JUDGED, "all")), f"{row['fps']:.1f}"))
    headings = ("steps", *(NAMES[name] for name in (*JUDGED, "all")), "fps")
    told = f"The same {part['prompts']} prompts and seeds, {part['seconds_a_film']:g} s each; `num_inference_steps`."
    return "\n".join(["## Fewer steps", "", told, "", _table(headings, rows), *_picture("steps", shown)])


def _plans(part: Mapping[str, Any]) -> str:
    rows = [
        (
            row["plan"],
            f"`{row['name']}`" + (" *" if row["not_trained_for"] else ""),
            *(percent(row[each]) for each in (*JUDGED, "all")),
            f"{row['fps']:.1f}",
        )
        for row in part["rows"]
    ]
    headings = ("noise plan", "asked as", *(NAMES[name] for name in (*JUDGED, "all")), "fps")
    told = (
        f"The same {part['prompts']} prompts and seeds, {part['seconds_a_film']:g} s each, under one preset of every "
        "noise plan, with the model's own sampler."
    )
    text = ["## Other noise plans", "", told, "", _table(headings, rows)]
    untrained = sorted({what for row in part["rows"] for what in row["not_trained_for"]})
    if untrained:
        text += [f"\\* the card does not list {', '.join(untrained)}.", ""]
    return "\n".join(text)


def _video(part: Mapping[str, Any]) -> str:
    rows = [
        (f"{row['noise']:g}", percent(row["follows"]), f"{row['apart']:.2f}", *(percent(row[each]) for each in JUDGED))
        for row in part["rows"]
    ]
    told = (
        f"{part['prompts']} held-out prompts, {part['seconds_a_film']:g} s each, made over a painted film of the same "
        "object on the same way, in another colour and scene. Noise 1 is no film at all; with less, the sampler begins "
        f"at a later level. A film follows when its object is within {NEAR:g} picture sizes of the source's, in the "
        "middle of all frames; colour and scene are those of the words."
    )
    headings = ("noise", "follows", "apart, median", *(NAMES[name] for name in JUDGED))
    return "\n".join(["## Video to video", "", told, "", _table(headings, rows)])


def _drift(part: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    names = (*JUDGED, "all")
    rows: list[Sequence[str]] = []
    for memory in ("sink", "no sink"):
        if memory in part:
            rows += [
                (
                    f"{memory}, {when}",
                    *(f"{part[memory][when][name]['share']:.0%}" for name in names),
                    f"{part[memory]['change']:.2f}" if when == "last" else "",
                )
                for when in ("first", "last")
            ]
    compared = part[next(memory for memory in ("sink", "no sink") if memory in part)]["seconds_compared"]
    headings = ("", *(NAMES[name] for name in names), "pictures, spreads")
    return "\n".join(
        [
            "## Long films",
            "",
            f"{part['films']} films of {part['minutes']:g} minutes, each of one held-out prompt of something that "
            f"moves: the last {compared:g} s against the first {compared:g} s, in windows of {WINDOW:g} s. Windows "
            "of one film are not independent, so no interval is given.",
            "",
            _table(headings, rows),
            *_picture("drift", shown),
        ]
    )


def _ablation(result: Mapping[str, Any], parts: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    amount = result["amount"]
    rows = [(row["name"] + (" *" if row["not_trained_for"] else ""), *ablations.cells(row)) for row in result["rows"]]
    untrained = sorted({what for row in result["rows"] for what in row["not_trained_for"]})
    found = ablations.claims(result, parts)
    claimed = [(claim.text, claim.source, claim.figures, f"**{claim.verdict}**") for claim in found]
    text = [
        "## What the memory is worth",
        "",
        f"`rivulet bench ablation`: {amount['films']} films of {amount['minutes']:g} min and {amount['pairs']} "
        "switches with re-cache under each memory, the same prompts and seeds for all, preset "
        f"`{result['preset']}` of weights {result['version']}. Set as a user would: `sink_size`, `local_attn_size`, "
        f"and for absolute positions the preset `{ablations.ABSOLUTE}`. Beginning and end: right judgements in the "
        "first and the last minute (of films under two minutes: halves). Switch: median wait (share that got there).",
        "",
        _table(("memory", *ablations.HEADINGS), rows),
    ]
    if untrained:
        text += [f"\\* not trained for {', '.join(untrained)}.", ""]
    text += [*_picture("ablation", shown), "What papers claim, and what this model shows of it:", ""]
    text.append(_table(("claim", "source", "measured", ""), claimed))
    text.append(
        "Settings are compared film by film (Student's 95 % interval of the paired differences); shown means that the "
        f"interval is on the claim's side, or for an equal within {ablations.EQUAL:.0%}. Not shown is not refuted: a "
        "model of this size, trained on films of seconds, may lack what the claim is about.\n"
    )
    return "\n".join(text)


def _scorer(part: Mapping[str, Any]) -> str:
    worst = min(JUDGED, key=lambda name: part[name]["share"])
    text = SCORER.format(
        least=f"{part[worst]['share']:.1%} in {NAMES[worst]}",
        looks=seconds(part["switch_error"]["looks"]["median"]),
        looks_most=seconds(part["switch_error"]["looks"]["p90"]),
        motion=seconds(part["switch_error"]["motion"]["median"]),
        motion_most=seconds(part["switch_error"]["motion"]["p90"]),
        speed=f"{part['speed']['median']:.3f}",
        frozen=percent(part["frozen_called_frozen"]),
    )
    rows = [
        (
            NAMES[name],
            percent(part[name]),
            f"{part['shuffled'][name]['share']:.1%}",
            f"{part['shuffled'][name]['chance']:.1%}",
        )
        for name in JUDGED
    ]
    headings = (f"{part['clips']} plain clips", "right", "against other prompts", "chance")
    others = ", ".join(
        f"{name} {kind} {found['own']['share']:.0%} of {found['own']['of']}"
        for name, kinds in part["rich"]["conditions"].items()
        for kind, found in kinds.items()
    )
    rich = part["rich"]
    told = f"On {rich['clips']} rich clips all four are right in {percent(rich['all'])}. Of the rest: {others}."
    return "\n".join([text, _table(headings, rows), told, ""])


def _failures(part: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            "## Known failures",
            "",
            f"Of {part['prompts']} plain and {part['rich']['prompts']} rich prompts, the films that the scorer finds "
            "furthest from what was asked for; nobody chose them.",
            "",
            *(f"- `--seed {failure['seed']}`, {caption(failure)}" for failure in part["worst"]),
            "",
            "![moments of the worst films, a row each](quality/worst.png)",
            "",
        ]
    )


def _picture(name: str, shown: Mapping[str, Any]) -> list[str]:
    return [f"![{CAPTIONS[name]}](quality/{name}.png)", ""] if name in shown else []


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def main() -> None:
    """Write page, plots and the card's figures anew."""
    quality, ablation, card = load()
    shown = pictures_of(quality.get("parts", {}), ablation)
    for plot in PLOTS:
        file = PICTURES / f"{plot.name}.png"
        if plot.name not in shown:
            file.unlink(missing_ok=True)
        elif not file.is_file() or drawn_from(file) != digest(shown[plot.name]):
            save_figure(picture(plot, shown[plot.name]), file, shown[plot.name])
    PAGE.write_text(page(quality, ablation, card), encoding="utf-8")
    MODEL_PAGE.write_text(model_page(MODEL_PAGE.read_text(encoding="utf-8"), quality), encoding="utf-8")
    print(f"{PAGE} is up to date.")


if __name__ == "__main__":
    main()
