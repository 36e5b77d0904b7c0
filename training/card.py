"""The model card for people, filled from the card for code, so that the two cannot disagree."""

from __future__ import annotations

from typing import Any

from training import world
from training.atmosphere import DAYLIT, WEATHERS
from training.shapes import PATTERNS

STAGES = {
    "cooldown": "the autoencoder at a falling rate of learning",
    "distil": "two guided steps of the transformer into one",
    "decoder": "the decoder alone, half of it on what the transformer draws",
}
"""What the stages do that not every run has."""
TEMPLATE = """# The embedded model

A small causal video diffusion transformer that ships with Rivulet, so that a film needs no download. It knows one
painted world and nothing else. Version {version}, licence {licence}; trained from scratch by this repository's own
recipe on pictures it draws itself, so no outside data or weights are in it.

## What its world holds

What of this it paints, and what it does not yet, the figures below say, and docs/quality.md kind by kind.

| | |
|---|---|
| colours | {colors} |
| shapes | {shapes} |
| sizes | {sizes} |
| motions | {motions} |
| scenes | {scenes} |
| patterns | {patterns} |
| weather | {weathers}; {daylit} have a night as well |
| two objects | one is {relations} of the other, and both move together |
| camera | {cameras} |

{words} words (`text_encoder/vocabulary.json`), at most {text_len} in a prompt. Words it does not know are reported
with the nearest ones it does. It learned prompt switches in mid-film. A twentieth of all combinations of colour,
shape, motion and scene was never shown in training; the quality benchmark asks for those.

## Shape

{size} pixels at {fps} frames a second. {total:.1f} million parameters, stored in bf16: transformer {transformer:.2f},
autoencoder {autoencoder:.2f}, text encoder {text_encoder:.2f}. A latent frame is {latents}, or {tokens} tokens,
for four pixel frames (the first: for one). Chunks of {chunk} latent frames, a
window of {window} with a sink of {sink}, {steps} Euler steps at shift {shift:g}, guidance {guidance_scale:g}.

Noise plans: {supported}. It also makes films over (video to video). Under a stream batch
colour, shape and scene follow the prompt, and the motion only in part.

## How it was made

| stage | what | length |
|---|---|---|
| autoencoder | fresh clips of the world, Muon | {encoded} |
| data | films of 81 pixel frames, half of them with a prompt switch | {films} films |
| data | the first 9 pixel frames of other films | {beginnings} films |
| data | the first frame of others, nine of every scene | {pictures} pictures |
| data | short films, four ways to go on from every beginning | {turns} films |
| transformer, text | flow matching on all of these | {transformer_steps} steps, {transformer_minutes} min |
{distilled}
{remarks}All on one machine ({machine}) that other work shared.
On clips that training never drew, the autoencoder reconstructs at {decibels} dB PSNR, with {edges}
of the edges (mean absolute Laplacian, over the truth's).
The transformer's training loss, mean of its last lines: {transformer_loss}.

```
python -m training all --out outputs/training      # make it again
python -m training export --out outputs/training   # only write this folder
rivulet bench quality                              # adherence, switches, drift
```

## Figures

<!-- figures: python -m benchmarks.pages.quality -->
<!-- /figures -->

Plots, the worst films, and what the memory is worth: docs/quality.md.

## Limits

- Thirteen hours of two processor cores are little: scenes, colours and motions follow the prompt, and shapes mostly do,
  but outlines are soft and a shape may change on its way; a star may come as a flower, a flower as a ball.
- A plain prompt sometimes gets its object twice.
- A second object hardly ever comes as it was asked for (docs/quality.md, rich prompts).
- Patterns, weather, night and a second object were seen in the last six hours of training only.
- What a prompt leaves open may change on the way, and the drift meter says so. Name the colour.
- Small objects, and objects that leave the picture, may fade, come back late or change.
- A sentence that means nothing in this world gives some film of it, not an error.
- Other picture sizes than the one above were never trained.
"""


def readme(card: dict[str, Any], words: int) -> str:
    """The text of README.md for a card and a count of known words."""
    parameters = {name: count / 1e6 for name, count in card["parameters"].items()}
    tables = {
        "colors": world.COLORS,
        "shapes": world.SHAPES,
        "sizes": world.SIZES,
        "motions": world.MOTIONS,
        "scenes": world.SCENES,
        "patterns": PATTERNS,
        "weathers": WEATHERS,
        "daylit": DAYLIT,
        "relations": world.RELATIONS,
        "cameras": world.CAMERAS,
    }
    values: dict[str, Any] = {**card, **card["training"], **parameters, "words": words}
    values |= {name: ", ".join(names) for name, names in tables.items()}
    values["distilled"] = "".join(
        f"| {name} | {what} | {card['training'][f'{name}_steps']} steps, {card['training'][f'{name}_minutes']} min |\n"
        for name, what in STAGES.items()
        if f"{name}_steps" in card["training"]
    )
    if "blend_share" in card["training"]:
        share, before = card["training"]["blend_share"], card["training"]["blend_before"]
        values["distilled"] += f"| blend | {share:.0%} of the weights so made, the rest version {before}'s | |\n"
    channels, height, width = card["latent_frame"]
    steps, minutes, edges, decibels = (
        card["training"][f"autoencoder_{name}"] for name in ("steps", "minutes", "held_out_edges", "held_out_psnr_db")
    )
    values |= {
        "latents": f"{channels} channels of {height} x {width}",
        "encoded": "an earlier run's" if steps is None else f"{steps} steps, {minutes} min",
        "decibels": "unmeasured" if decibels is None else decibels,
        "edges": "an unmeasured share" if edges is None else f"{edges:.0%}",
        "size": " x ".join(str(side) for side in card["sizes"][0]),
        "chunk": " or ".join(str(chunk) for chunk in card["chunk"]),
        "supported": ", ".join(card["plans"]),
        "remarks": "".join(f"{line}\n" for line in [*card["training"]["remarks"], ""] if card["training"]["remarks"]),
        "total": sum(parameters.values()),
    }
    return TEMPLATE.format(**values)
