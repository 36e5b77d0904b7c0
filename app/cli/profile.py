"""The command `rivulet profile`: find out once what a model allows its feature caches, and write it beside it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import DeviceName, ModelName, PresetName, Threads, option
from app.config.readers import DEVICES, choose
from app.config.table import READERS, TABLE
from app.errors import EXIT_OK, UsageMistake

EPILOG = (
    "Serves --feature_cache planned (CacheQuant), profiled (ProfilingDiT), teacache and clean-pass. A film made with "
    "one of them is made again only with the profile of then: profile.safetensors beside the model."
)
PROMPTS = (
    "a big red ball bounces over the sea",
    "a blue star moves right in a desert",
    "a small green box turns in the snow at night",
)
_MANY = 20
"""Passes from which on half of them are computed unless somebody says otherwise; with fewer three of four."""


def profile_command(
    preset: PresetName = "embedded",
    model: ModelName = None,
    device: DeviceName = "auto",
    threads: Threads = None,
    num_inference_steps: Annotated[int | None, option(TABLE["num_inference_steps"])] = None,
    kv_cache_dtype: Annotated[str | None, option(TABLE["kv_cache_dtype"])] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What the film shows; may be repeated.", show_default=False)
    ] = None,
    chunks: Annotated[int, typer.Option("--chunks", min=4, max=10_000, help="Length of the film.")] = 36,
    computed: Annotated[
        float | None,
        typer.Option(
            "--computed", min=0.01, max=1, help="Share of passes that are computed. [default: 0.75, 0.5 of 20]"
        ),
    ] = None,
    period: Annotated[
        int, typer.Option("--period", min=1, max=16, help="Chunks after which the plan begins anew.")
    ] = 2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The profile.", show_default="beside the model")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**53 - 1, help="Of the film.")] = 0,
) -> int:
    """Play a film, compare what its passes compute, and write what feature caches go by."""
    from rich.console import Console

    from app.loading.engine_request import EngineRequest
    from app.loading.model import load_model
    from pipelines.build import build_stream
    from pipelines.feature_profile import PROFILE_FILE, write_profile
    from pipelines.presets import PRESETS
    from pipelines.presets.knobs import KnobError, apply_knobs

    system = PRESETS[choose(preset, list(PRESETS), "preset")]
    knobs = {"num_inference_steps": num_inference_steps, "kv_cache_dtype": kv_cache_dtype}
    try:
        system = apply_knobs(system, {name: value for name, value in knobs.items() if value is not None})
    except KnobError as error:
        raise UsageMistake(str(error)) from None
    if system.plan != "serial-clean":
        raise UsageMistake(
            f"Preset {system.name} has several noise levels in one pass, and feature caches serve one. Choose another."
        )
    if output is not None and (not output.parent.is_dir() or output.is_dir()):
        raise UsageMistake(f"{output} cannot be written. Name a file in a folder that is there.")
    from training.feature_profile import profile

    console = Console(highlight=False, markup=False, stderr=True)
    loaded = load_model(
        EngineRequest(
            preset=system,
            model=None if model is None else READERS["model"]("--model", model),
            device=choose(device, DEVICES, "device"),
            threads=threads,
            untrained=True,
        )
    )
    stream = build_stream(system, loaded.components, seed=seed, untrained=True)
    passes = len(stream.engine.policies.plan.levels)
    share = computed or (0.5 if passes >= _MANY else 0.75)
    with console.status("") as status:
        found, told = profile(
            stream, prompt or PROMPTS, chunks=chunks, computed=share, period=period, report=status.update
        )
    path = output or (loaded.components.folder or Path()) / PROFILE_FILE
    write_profile(found, loaded.components.transformer, path)
    Console(highlight=False, markup=False, width=120).print(_table(found.facts, told), f"{path} is written.", sep="\n")
    return EXIT_OK


def _table(facts: Any, told: dict[str, Any]) -> str:
    """What was found, for people."""
    lines = [f"Computed of the passes at {', '.join(f'{level:.0f}' for level in facts.levels)}:"]
    lines += [
        f"  chunk {i + 1}: {' '.join('x' if each else '-' for each in row)}" for i, row in enumerate(facts.computed)
    ]
    lines.append("Error of a pass made of the one before, by how much of its size: as it is, corrected:")
    for (source, target), (plain, fixed) in told["errors"].items():
        if target == source + 1:
            lines.append(f"  {facts.levels[source]:.0f} for {facts.levels[target]:.0f}: {plain:.2f}, {fixed:.2f}")
    lines.append("Of the clean pass made of the last one, by layer:")
    lines.append("  " + "; ".join(f"{plain:.2f}, {fixed:.2f}" for plain, fixed in told["clean"]))
    looks = ", ".join(f"{layer}: {look:.2f}" for layer, look in told["looks"].items())
    if looks:
        lines.append(f"Attention on what moves, by layer, 1 is as much as on anything: {looks}")
        lines.append(f"Background layers: {', '.join(map(str, facts.background)) or 'none'}")
    else:
        lines.append("Nothing moved, so no layer could be told from another by what it looks at.")
    return "\n".join(lines)
