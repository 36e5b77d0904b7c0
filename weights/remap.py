"""Two spellings of one Wan transformer: the names of the original repository and the names of diffusers.

Every released causal checkpoint (Self-Forcing, LongLive ...) is spelled the original way while our modules
are built from diffusers' blocks. The tensors are the same, nothing is transposed or fused: only keys change.
diffusers ships the way in; the way back is here, for exports and for comparisons with recorded runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_WRAPPERS = (
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "_orig_mod.",
)  # FSDP, remat, torch.compile

# Applied in this order to whole dotted parts; `norm2` and `norm3` trade places.
_TO_ORIGINAL = tuple(
    (re.compile(rf"(?<![^.]){re.escape(ours)}(?![^.])"), original)
    for ours, original in (
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("attn1", "self_attn"),
        ("attn2", "cross_attn"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "o"),
        ("add_k_proj", "k_img"),
        ("add_v_proj", "v_img"),
        ("norm_added_k", "norm_k_img"),
        ("ffn.net.0.proj", "ffn.0"),
        ("ffn.net.2", "ffn.2"),
        ("proj_out", "head.head"),
        ("norm2", "norm3"),
    )
)
_ORIGINAL = re.compile(r"^(time_embedding|text_embedding|time_projection|head)\.|\.(self|cross)_attn\.|\.modulation$")


def unwrap_key(key: str) -> str:
    """Drop what training wrappers put into a key and the leading `model.` of the reference wrapper class."""
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, "")
    return key.removeprefix("model.")


def unwrapped(tensors: Mapping[str, T]) -> dict[str, T]:
    """The same values under names without wrappers and without what stands before `patch_embedding.weight`.

    That is `model.` in training scripts and `model.diffusion_model.` in files for ComfyUI; other names stay as they
    are. Where two names become one, one of them is lost, and the result is shorter.
    """
    bare = {name: unwrap_key(name) for name in tensors}
    first = next((name for name in bare.values() if name.endswith("patch_embedding.weight")), "")
    prefix = first.removesuffix("patch_embedding.weight")
    return {bare[name].removeprefix(prefix): value for name, value in tensors.items()}


def is_original(keys: Iterable[str]) -> bool:
    """Whether these are the original repository's keys (`blocks.0.self_attn.q.weight`, `head.modulation`)."""
    return any(_ORIGINAL.search(key) for key in keys)


def to_diffusers(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename original Wan keys to diffusers' ones; a state dict that has them already comes back unchanged.

    Args:
        state_dict: any values under Wan keys; wrappers' prefixes already dropped (`unwrap_key`).
    """
    if not is_original(state_dict):
        return dict(state_dict)
    # Imported here: diffusers costs seconds, and a folder in diffusers' own layout needs no renaming.
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return convert_wan_transformer_to_diffusers(dict(state_dict))  # a copy: the converter empties its argument


def to_original(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename diffusers' Wan keys to the original ones; the inverse of `to_diffusers`."""
    if is_original(state_dict):
        return dict(state_dict)
    return {_original_key(key): value for key, value in state_dict.items()}


def _original_key(key: str) -> str:
    if key == "scale_shift_table":
        return "head.modulation"
    if key.endswith(".scale_shift_table"):
        return key.removesuffix("scale_shift_table") + "modulation"
    for pattern, original in _TO_ORIGINAL:
        key = pattern.sub(original, key)
    return key
