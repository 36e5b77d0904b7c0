"""Other projects' names for our flags and settings, so that what people have in their fingers works here too.

Gathered from Self-Forcing, LongLive, StreamDiffusionV2, FastVideo, LightX2V, Wan2GP and Daydream Scope. An alias
means exactly what its primary name means; where units differ (`num_output_frames` counts latent frames) the name is
a setting of its own.
"""

from collections.abc import Mapping

ALIASES: Mapping[str, str] = {
    # what to show
    "data_path": "prompts",
    "prompt_file_path": "prompts",
    "prompt_path": "prompts",
    "extended_prompt_path": "prompts",
    # how long, how large
    "target_video_length": "num_frames",
    "target_height": "height",
    "target_width": "width",
    # how
    "base_seed": "seed",
    "model_path": "model",
    "steps": "num_inference_steps",
    "step": "num_inference_steps",
    "infer_steps": "num_inference_steps",
    "cfg": "guidance_scale",
    "sample_guide_scale": "guidance_scale",
    "timestep_shift": "shift",
    "clean_level": "context_noise",
    "window": "local_attn_size",
    "sink": "sink_size",
    "chunk": "num_frame_per_block",
    # where to
    "output_path": "output",
    "output_folder": "output",
    "output_dir": "output",
    "save_result_path": "output",
    # the command itself
    "config_path": "config",
    "config_json": "config",
    "accept_license": "accept_licence",
    "dryrun": "dry_run",
}
"""Alias to primary name, both with `_`."""

GROUPS: Mapping[str, Mapping[str, str]] = {
    "cache": {
        name: name
        for name in (
            "local_attn_size",
            "sink_size",
            "num_frame_per_block",
            "independent_first_frame",
            "kv_cache_attention_bias",
            "recache_on_switch",
            "global_sink",
            "context_noise",
        )
    },
    "output": {"path": "output"}
    | {name: name for name in ("crf", "fps", "scale", "segment_chunks", "report", "audio")}
    | {name: name for name in ("metadata", "subtitles", "sidecar")},
}
"""Names that config files may put under a heading: `cache: {sink_size: 3}` is `sink_size: 3`."""


def primary(name: str) -> str:
    """Our name for a flag or setting, from ours or theirs, with - or _."""
    spelled = name.replace("-", "_")
    return ALIASES.get(spelled, spelled)
