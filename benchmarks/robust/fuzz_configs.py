"""Config files and overrides for the fuzz benchmark: what `mutation.run` damages, and what reads it.

The seeds use every notation and group once; the reader goes as far as a command does before a model is loaded, so a
mutation that still reads as settings must end in a whole record or in one sentence.
"""

from app.config.nodes import decode
from app.config.settings import Settings, given_by_overrides, parse_config, resolve
from benchmarks.robust.mutation import Target
from pipelines.presets import PRESETS
from pipelines.presets.knobs import apply_knobs, knob_values

SEEDS: dict[str, bytes] = {
    "film.yaml": b"""# a night's work
prompt: [a red ball bounces over the sea, "a blue star: over snow"]
seed: 7
size: 96x96
duration: 0:20
steps: 6
guidance_scale: 1.5
cache: {local_attn_size: 11, sink_size: 2, num_frame_per_block: 3, recache_on_switch: true}
output:
  path: out.mp4
  crf: 20
transition: soft
transition-chunks: 2
""",
    "film.json": b'{"script": "shots.yaml", "seed": -1, "height": 96, "width": 96, "fps": 23.976,\n'
    b' "denoising_step_list": [1000, 750, 500, 250, 0], "threads": null,\n'
    b' "cache": {"sink_size": 0, "global_sink": false}, "output": {"path": "a\\u00e9.mp4", "scale": 2}}\n',
    "film.toml": b'prompt = "a red ball"\nseed = 7\nnum_output_frames = 32\nshift = 5.0\nfps = "30000/1001"\n\n'
    b"[cache]\nlocal_attn_size = 11 # latent frames\nsink_size = 2\n[output]\npath = \"out.mp4\"\nreport = 'r.html'\n",
    "overrides": b"seed=7\ncache.sink_size=2\noutput.crf=20\ndenoising_step_list=1000,500\nfps=24\n",
}


def read_config(data: bytes, name: str) -> None:
    """Read settings and resolve them, as a command line does; then the preset from its knobs, as a replay does."""
    text = decode(data, name)
    if name == "overrides":
        layer = given_by_overrides([line for line in text.split("\n") if "=" in line])
    else:
        layer = parse_config(text, name)
    resolved = resolve([layer])
    if Settings.model_validate_json(resolved.settings.model_dump_json()) != resolved.settings:
        raise AssertionError("settings do not come back from JSON as they were")
    if apply_knobs(PRESETS[resolved.preset.name], knob_values(resolved.preset)) != resolved.preset:
        raise AssertionError("a preset does not come back from its knobs as it was")


CONFIGS: dict[str, tuple[bytes, Target]] = {name: (data, read_config) for name, data in SEEDS.items()}
"""Targets for `benchmarks.robust.mutation.run`."""
