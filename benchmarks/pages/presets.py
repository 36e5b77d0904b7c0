"""docs/presets.md from the presets themselves: `python -m benchmarks.pages.presets`.

Facts, costs, trace results and figures of the page are read where they are made, so that the page cannot go stale:
tests/benchmarks/test_preset_page.py makes it again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.quality.preset_films import HEADINGS, cells
from benchmarks.speed.cost import formula
from pipelines.cost import Forward, Steady, chunk_flops, forward_flops, kv_bytes, steady
from pipelines.presets import PRESETS, Preset
from weights.catalog import MODELS, RELEASED_FPS, RELEASED_SIZE, WAN_1_3B

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "presets.md"
GOLDEN = ROOT / "benchmarks" / "results" / "golden.json"
FILMS = ROOT / "benchmarks" / "results" / "presets.json"

GRID = RELEASED_SIZE[0] // 16, RELEASED_SIZE[1] // 16
TOKENS = GRID[0] * GRID[1]
LATENT_FPS = RELEASED_FPS / 4

LOOKS: dict[str, str] = {
    "embedded": "the model's own weaknesses show under every preset that keeps its plan: the ball over the sea turns "
    "square, the square on the meadow is round, the ring begins half outside and ends with a cactus in it.",
    "self-forcing": "nothing is replayed and 21 frames are seen: the star is a smear for its first second.",
    "longlive": "the night stays in the meadow's sky, and the sunset in the city's, long after the switch: absolute "
    "positions, which were not in training, are all that tells it from longlive-infinity, and its drift is ten times "
    "larger.",
    "longlive-2": "does not follow a new prompt: the heart stays and turns green, the pink object appears in the "
    "desert. Nothing is replayed, and chunks of eight were not in training.",
    "rolling-forcing": "sharp before the switch, the ring better than under any other preset; for two seconds after it "
    "both scenes are in one picture, because five chunks that were begun under the old prompt are still in flight.",
    "streamdit": "the same.",
    "streamdiffusion-v2": "follows every switch within a second, through a blur; the ring falls apart.",
    "deep-forcing-sink": "the star is a smear for its first second; ten frames of the old prompt stay in memory.",
}
"""What a person saw in docs/presets.png, where a preset looks wrong."""

TIMED = (
    "The committed run had two cores and nothing beside it, one thread. Under streamdiffusion-v2 a chunk is 4 pictures "
    "and not 12, so the same engine time is a larger share: measured as a plain difference of shares it is 4.8 points "
    "over longlive."
)
"""What a reader has to know of the run in benchmarks/results/presets.json; write it anew with every run."""

INTRODUCTION = """\
# The presets

One engine, and every published system is data over it: a noise plan and policies that decide in integers
([architecture](architecture.md)). This page is made by `python -m benchmarks.pages.presets` from the presets, the count
of their cost and the replayer's results: edit those, not this.

- **Traces**: runs of the original code were recorded, and the engine's own loop has to give the same latents, keys and
  values to 2e-5 (`make golden`; results in `benchmarks/results/golden.json`). Those marked "here" are in tests/golden,
  one or two a system and none whose licence is narrow. Released defects that a preset does not share are in the
  replayer, not in the engine.
- **Cost** is that of a chunk in the steady state, for every system on the same model: 1.3B at 480x832 (`rivulet bench
  cost`). `(4 + 1 clean) × (3 q, 12 k)` = four denoising forwards and a clean one, of 3 latent frames that see 12. A
  forward costs q × ({fixed:.2f} + {per_key:.3f} × k) TFLOP: linear layers and cross-attention over kept text keys, then
  self-attention. Chunks that alternate are separated by a bar, and their mean counts.
- **Memory** is what is allocated there for keys and values in bfloat16: what is remembered, and room in which one layer
  at a time turns what it reads.
- **Models**: those trained for the preset's plan. Others run with `--untrained`, and it shows.
"""


def page(golden: Sequence[Mapping[str, Any]], films: Mapping[str, Any] | None = None) -> str:
    """The whole page; `golden` is what `tests.golden_replay --json` wrote, `films` what `rivulet bench presets` did."""
    costs = {name: steady(preset) for name, preset in PRESETS.items()}
    sections = [_introduction(), _overview(costs, golden)]
    sections += [_section(preset, costs[name], golden) for name, preset in PRESETS.items()]
    sections.append(_shared(golden))
    if films is not None:
        sections.append(_films(films))
    return "\n".join(sections)


def trained_models(plan: str) -> list[str]:
    """Names of the catalogue's models that were trained for a plan, as their cards or their own presets say."""
    names: list[str] = []
    for name, spec in MODELS.items():
        card = Path(spec.transformer.file).parent / "card.json"
        if spec.transformer.where == "package":
            plans: Iterable[str] = json.loads(card.read_text(encoding="utf-8"))["plans"]
        else:
            plans = {preset.plan for preset in PRESETS.values() if preset.model == name}
        if plan in plans:
            names.append(name)
    return names


def traces_of(preset: Preset, golden: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Results of the recorded runs of a preset's system."""
    return [result for result in golden if str(result["name"]).startswith(preset.traces)]


def _introduction() -> str:
    base = forward_flops(WAN_1_3B, TOKENS, Forward("denoise", 1, 0))
    per_key = forward_flops(WAN_1_3B, TOKENS, Forward("denoise", 1, 1)) - base
    return INTRODUCTION.format(fixed=base / 1e12, per_key=per_key / 1e12)


def _overview(costs: Mapping[str, Steady], golden: Sequence[Mapping[str, Any]]) -> str:
    rows: list[Sequence[str]] = []
    for name, cost in costs.items():
        tera = chunk_flops(WAN_1_3B, TOKENS, cost) / 1e12
        switch = sum(forward_flops(WAN_1_3B, TOKENS, forward) for forward in cost.switch) / 1e12
        results = traces_of(PRESETS[name], golden)
        passed = sum(result["status"] == "ok" for result in results)
        rows.append(
            (
                f"[{name}](#{name})",
                str(cost.chunk),
                f"{tera:.0f}",
                f"{tera * LATENT_FPS / cost.chunk:.0f}",
                f"{cost.keys:.1f}",
                f"{kv_bytes(WAN_1_3B, GRID, cost) / 2**30:.2f}",
                f"+{switch:.0f}" if switch else "-",
                f"{passed} of {len(results)}" if results else "-",
            )
        )
    headings = (
        "preset",
        "chunk, latent frames",
        "TFLOP a chunk",
        "a second of film",
        "keys, frames",
        "memory, GiB",
        "a new prompt, TFLOP",
        "traces that pass",
    )
    return _table(headings, rows)


def _section(preset: Preset, cost: Steady, golden: Sequence[Mapping[str, Any]]) -> str:
    weights = [spec for spec in MODELS[preset.model].weights if spec.kind in ("transformer", "lora")]
    licences = dict.fromkeys(spec.licence for spec in weights)
    models = trained_models(preset.plan)
    lines = [
        f"## {preset.name}",
        "",
        f"{preset.title[0].upper()}{preset.title[1:]}.",
        "",
        f"- **Paper**: {preset.paper}.",
        f"- **Licences**: {preset.licence}. Weights of `{preset.model}`: {'; '.join(licences)}.",
        f"- **Models** trained for `{preset.plan}`: {', '.join(f'`{name}`' for name in models) or 'none'}"
        f" (default `{preset.model}`).",
        f"- **As data**: {', '.join(f'`{_told(part)}`' for part in _parts(preset))}.",
        f"- **Cost**: {formula(cost)} = {chunk_flops(WAN_1_3B, TOKENS, cost) / 1e12:.1f} TFLOP a chunk.",
    ]
    if preset.fixes:
        lines += ["- **Differs from the release**:", *(f"  - {fix}" for fix in preset.fixes)]
    elif preset.traces:
        lines.append("- **Differs from the release**: in nothing.")
    return "\n".join([*lines, "", *_traces(traces_of(preset, golden))])


def _parts(preset: Preset) -> tuple[object, ...]:
    return (preset.schedule, preset.cache, preset.window, preset.position, preset.switch)


def _told(part: Any) -> str:
    """A policy as one would write it: only what is not the default."""
    said = [
        f"{field.name}={getattr(part, field.name)!r}"
        for field in fields(part)
        if getattr(part, field.name) != field.default
    ]
    return f"{type(part).__name__}({', '.join(said)})"


def _traces(results: Sequence[Mapping[str, Any]]) -> list[str]:
    if not results:
        return []
    rows = [
        (
            f"`{result['name']}`",
            result["source"] or "-",
            result["status"] if result["error"] is None else f"{result['status']}, {result['error']:.1e}",
            str(result["tensors"]),
            "yes" if (ROOT / "tests" / "golden" / f"{result['name']}.json").is_file() else "-",
            result["remarks"].removeprefix(f"{result['tensors']} tensors").removeprefix("; "),
        )
        for result in results
    ]
    return [_table(("trace", "recorded from", "result, largest error", "tensors compared", "here", "remarks"), rows)]


def _shared(golden: Sequence[Mapping[str, Any]]) -> str:
    claimed = {str(result["name"]) for preset in PRESETS.values() for result in traces_of(preset, golden)}
    rest = [result for result in golden if result["name"] not in claimed]
    text = "Model, training forward, autoencoder and tables that several presets stand on."
    return "\n".join(["## Traces of shared parts", "", text, "", *_traces(rest)])


def _films(result: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    for row in result["presets"]:
        numbers = ("left out", *[""] * (len(HEADINGS) - 1)) if "left_out" in row else cells(row)
        rows.append((f"[{row['preset']}](#{row['preset']})", *numbers, ", ".join(row["not_trained_for"]) or "-"))
    text = (
        f"`rivulet bench presets --untrained` on weights {result['version']}, {result['device']} with "
        f"{result['threads']} thread(s): "
        f"{len(result['scripts'])} scripts of {result['seconds_a_film']:g} s with a new prompt in the middle, the same "
        "seeds for all. The policies are the preset's, the sampler is the model's: step lists belong to the weights "
        "they were distilled into.\n\n"
        "Right: colour, shape, motion, scene. Switch: median time until what changed is right. Drift: the engine's own "
        "meter at the end of the last film, which goes on for as long again. Fps: of the generation, and of what is "
        "shown, decoded. MiB: a stream's state. Keys: frames attended. Engine: share of a chunk that is neither "
        "transformer nor decoder. Over: share of a chunk by which that is longer than under "
        f"{result['base']}, timed at the same moment (allowed: {result['overhead_allowed']:.0%})."
    )
    table = _table(("preset", *HEADINGS, "not trained for"), rows)
    scripts = "; ".join(f"{before}, then {after}" for before, after in result["scripts"])
    picture = f"![frames of these films, a row a preset](presets.png)\n\nScripts: {scripts}.\n"
    seen = "\n".join(f"- **{name}**: {said}" for name, said in LOOKS.items())
    return "\n".join(["## On the embedded model", "", text, "", table, TIMED, "", picture, seen, ""])


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def main() -> None:
    """Write the page anew."""
    films = json.loads(FILMS.read_text(encoding="utf-8")) if FILMS.is_file() else None
    PAGE.write_text(page(json.loads(GOLDEN.read_text(encoding="utf-8")), films), encoding="utf-8")
    print(f"{PAGE} is up to date.")


if __name__ == "__main__":
    main()
