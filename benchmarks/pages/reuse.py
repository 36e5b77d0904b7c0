"""docs/reuse.md: what feature caches save and what they cost. `python -m benchmarks.pages.reuse`.

Made from benchmarks/results/cache.json alone, which `rivulet bench cache` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.pages.quality import RESULTS, ROOT
from benchmarks.quality.redundancy import APART
from benchmarks.quality.reuse import HEADINGS, cells, parts
from cache import FEATURE_CACHES
from cache.kv_shape import KVShape
from cache.quantised import KV_STORAGES
from pipelines.presets import PRESETS
from weights.catalog import WAN_1_3B

PAGE, NUMBERS = ROOT / "docs" / "reuse.md", RESULTS / "cache.json"
GOOD, FASTER = 40.0, 1.15
"""Decibels of the worst chunk, and how much faster, from which on a cache would be worth switching on."""
TEXT = """\
# Using again what was computed

```sh
rivulet render "a red fox" --feature_cache taylorseer    # clean-pass, cross-chunk, first-block, planned, profiled,
                                                         # step-rehash, teacache; none
rivulet profile                                          # what planned, profiled, teacache and clean-pass go by
rivulet bench cache                                      # the numbers below
python -m benchmarks.pages.reuse                         # this page, from benchmarks/results/cache.json
```

Systems that use features again were made for fifty steps; a distilled model has four, which differ. So nothing is
switched on by default, and every figure stands beside the rival that needs no cache: fewer steps. `clean-pass` spares
the pass that writes the memory all but its keys, `cross-chunk` uses what layers added for the chunk before at the same
level, `first-block` what they added a pass ago while the first layer's contribution changes little, `taylorseer` the
polynomial through the last passes, `step-rehash` every other pass, `teacache` the last pass while the changes of the
first layer's input add up to little, `planned` (CacheQuant) the last computed pass where a dynamic program found the
least error, corrected channel by channel, `profiled` (ProfilingDiT) the layers that do not look at what moves.
`rivulet profile` plays a film and finds out what the last three need; that lies beside the model, and a film made by it
is made again only with it. A new prompt or a cut forgets what was kept, and passes that write the memory compute every
layer's keys. A render ends with what was really used again, the page of
`rivulet web --feature_cache NAME` shows it live.

## How alike things are

By how much of its size what a layer adds changes: from chunk to chunk at the same level, and from the last denoising
pass to the clean one. Below about 0.1 using it again is cheap; above, it shows.

{map}
## What it saves and what it costs

Weights {version} ({weights}), preset {preset}, {steps} steps, {device}, {threads} thread(s). {chunks} chunks under
teacher forcing: every other chunk a way is put back to where the exact film stands, so the decibels are its own error
and no drift; those of `clean-pass` and of a memory in fewer bits show only in the second chunk of each pair, so their
worst chunk counts. Speed is of a whole chunk with its decoding, in processor time, the median of ratios with the exact
film taking turns; other work was on the machine. Layers: of the model's, computed. {films} For video the rival is 2
steps, the noise that of the first chunk (anchored), strength 0.6. Films of many guided steps (guidance 3, four chunks)
are of the same weights, which were distilled for four; the model that they were distilled from does not ship.

{rows}
{verdict}

`int8 memory` and `int4 memory` (`--kv_cache_dtype`) use nothing again: they remember in fewer bits. Of Wan 1.3B at
480x832 under longlive the whole store takes {int8} and {int4} of what it takes in bfloat16, the view of a layer
included.

## The most that can be saved

Counted, not measured: the share of layers that is left to compute if nothing ever changed, for the 30 layers of
Wan 1.3B.

{counted}
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    rows = [cells(f"{heading}{name}", row) for heading, part in parts(result).items() for name, row in part.items()]
    counted = [(name, *(_most(result["counted"][steps][name]) for steps in ("4", "50"))) for name in FEATURE_CACHES]
    said = {name: result[name] for name in ("version", "weights", "preset", "steps", "device", "threads", "chunks")}
    return TEXT.format(
        **said,
        films=f"Films right: {result['prompts']} of {result['seconds']:g} s."
        if result["prompts"]
        else "No film was judged.",
        map=_map(result["map"]),
        rows=_table(HEADINGS, rows),
        verdict=_verdict(result),
        int8=f"{stored('int8'):.2f}",
        int4=f"{stored('int4'):.2f}",
        counted=_table(("cache", "4 steps and a clean pass", "50 steps and a clean pass"), counted),
    )


def _most(share: float) -> str:
    return f"{100 * share:.0f} %, at most {1 / share:.2f}x"


def stored(name: str) -> float:
    """What a memory in fewer bits takes of one in bfloat16, both with the view of a layer, of longlive's at 480x832."""
    config, window = WAN_1_3B, PRESETS["longlive"].cache.capacity
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    shape = KVShape(config["num_layers"], 1, window, window, 30, 52, heads, head_dim)
    storage = KV_STORAGES[name](shape, device="meta", dtype=torch.bfloat16)
    held = sum(tensor.nbytes for tensor in storage.tensors().values())
    return (held + shape.allocated(1, 2) - shape.remembered(1, 2)) / shape.allocated(1, 2)


def _map(found: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    for number, level in enumerate(found["levels"]):
        for apart in APART:
            values = found["apart"][str(apart)][number]
            rows.append((f"{level:.0f}", str(apart), *(f"{value:.2f}" for value in values)))
    rows.append(("clean", "0", *(f"{value:.2f}" for value in found["clean"]), "-"))
    return _table(("level", "chunks apart", *(f"layer {layer}" for layer in range(found["layers"]))), rows)


def _verdict(result: Mapping[str, Any]) -> str:
    """What the rows come to, in sentences."""
    lines: list[str] = []
    for heading, part in parts(result).items():
        for name, row in part.items():
            if row["psnr"] is None or name.endswith(("steps", "memory")):
                continue
            rivals = (other for title, other in part.items() if title.endswith("steps"))
            near = [other for other in rivals if other["layers"] <= row["layers"] + 0.02]
            best = max((other["worst"] for other in near), default=None)
            if row["layers"] > 0.99:
                said = "used nothing again: it was off by itself"
            elif row["worst"] >= GOOD and row["speed"] >= FASTER:
                worth = best is None or row["worst"] > best
                said = "is worth switching on here" if worth else "is fast and close enough here"
            else:
                said = f"falls short of {FASTER:g}x at {GOOD:g} dB in the worst chunk"
            if row["layers"] <= 0.99 and best is not None:
                place = "ahead of" if row["worst"] > best else "behind"
                said += f", and is {place} fewer steps for as much work"
            lines.append(f"- `{heading}{name}` {said}.")
    return "\n".join(lines)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(page(json.loads(NUMBERS.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"{PAGE} is up to date.")


if __name__ == "__main__":
    main()
