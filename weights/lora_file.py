"""LoRA files in the layouts that trainers write: which tensor is which factor of which module, and at what scale.

PEFT and diffusers (`lora_A`, `lora_B`, alpha in the header), kohya and musubi (`lora_unet_..._lora_down`, alpha beside
the factors), ComfyUI (`diffusion_model.`, whole differences as `.diff`) and wrappers of training scripts; over the
original names of Wan or those of diffusers. What is not understood is refused by name: a LoRA that is half applied
looks like a weak one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weights.finite import must_be_finite
from weights.lora_scale import read_scaling
from weights.plain_files import CheckpointError, few
from weights.remap import to_original, unwrap_key
from weights.stored import from_pickle, read_pickle, stored_safetensors

_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "pipe.dit.",
    "dit.",
    "generator.",
    "module.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)
_ROLES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (role, re.compile(pattern))
    for role, pattern in (
        (
            "down",
            r"(.+?)(?:\.lora_A(?:\.(?P<adapter>[^.]+))?|\.lora_down|[._]lora\.down|\.lora_linear_layer\.down)\.weight",
        ),
        ("up", r"(.+?)(?:\.lora_B(?:\.(?P<adapter>[^.]+))?|\.lora_up|[._]lora\.up|\.lora_linear_layer\.up)\.weight"),
        ("up_bias", r"(.+?)(?:\.lora_B(?:\.(?P<adapter>[^.]+))?|\.lora_up|[._]lora\.up)\.bias"),
        ("alpha", r"(.+?)(?:[._]lora)?\.(?:alpha|lora_alpha|network_alpha)"),
        ("diff", r"(.+)\.diff"),
        ("diff_b", r"(.+)\.diff_b"),
        ("diff_m", r"(.+)\.diff_m"),
    )
)
_FORMS: tuple[tuple[str, str], ...] = (
    (r"dora_scale$|lora_magnitude_vector|\.magnitude$", "DoRA (a magnitude for every row)"),
    (r"lokr_", "LoKr (Kronecker factors)"),
    (r"hada_", "LoHa (products of factors)"),
    (r"\.(b?oft_|oft_diag)|\.oft_", "OFT (rotations)"),
    (r"lora_mid|lora_cp_mid", "a LoCon with a third factor"),
    (r"lora_E$|ranknum$|lora_E\.", "AdaLoRA"),
    (r"vera_lambda|lora_xs|randlora_", "VeRA or another shared basis"),
    (r"\.(a1|a2|b1|b2)\.weight$", "GLoRA"),
    (r"on_input$|ia3_", "IA3"),
    (r"\.(w_norm|b_norm)$", "norms trained by LyCORIS"),
    (r"\.(set_weight|reshape_weight)$", "replaced weights"),
    (r"modules_to_save", "whole modules trained beside it (modules_to_save)"),
    (r"\.(qweight|wscales|absmax|scale_weight)$", "quantised factors"),
)


@dataclass(frozen=True, slots=True)
class Factors:
    """What is added to one weight: scale * (b @ a), a conv's kernel flattened."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA over the parameters of one model.

    `factors` by module; `whole`: differences that are added to a parameter as they are, by its name.
    """

    factors: dict[str, Factors] = field(default_factory=dict[str, Factors])
    whole: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def read_lora(path: Path, model: nn.Module, *, alpha: float | None = None) -> Lora:
    """Read a LoRA for `model`.

    Args:
        path: .safetensors, or .pt with nothing but tensors.
        model: whose parameters have diffusers' names; it is not changed.
        alpha: what the LoRA was trained with, where the file does not say; None = the rank, that is scale 1.

    Raises:
        FileNotFoundError: nothing is there.
        CheckpointError: damaged, not a plain LoRA, or made for another model; the sentence says which and how many.
    """
    tensors, texts = _read(path)
    parts = _sort(path, tensors)
    names = _Names(model)
    scaling = read_scaling(path, texts)
    _check_targets(path, parts, names, type(model).__name__)
    must_be_finite(tensors.items(), path)
    parameters, lora = names.parameters, Lora()
    misshapen: list[str] = []
    for stem, roles in parts.items():
        if "down" in roles:
            module = names.module(stem)
            weight = parameters[f"{module}.weight"]
            a, b = roles["down"], roles["up"]
            fits = a.ndim == b.ndim == weight.ndim and (b.shape[0], *a.shape[1:]) == tuple(weight.shape)
            if not fits or a.shape[0] != b.shape[1] or b.numel() != b.shape[0] * b.shape[1]:
                misshapen.append(f"{module} {list(weight.shape)} with {list(b.shape)} x {list(a.shape)}")
                continue
            scale = scaling.of(path, names.spellings(module), a.shape[0], roles.get("alpha"), alpha)
            lora.factors[module] = Factors(a, b, scale)
        for role, value in roles.items():
            target = names.target(stem, role)
            if target is None:
                continue
            if value.shape != parameters[target].shape:
                misshapen.append(f"{target} {list(parameters[target].shape)} with {list(value.shape)}")
                continue
            value = value.double() * (lora.factors[names.module(stem)].scale if role == "up_bias" else 1.0)
            lora.whole[target] = lora.whole[target] + value if target in lora.whole else value
    if misshapen:
        raise CheckpointError(
            f"{path} adapts {few(misshapen)}, {len(misshapen)} of its {len(parts)} modules in another size; "
            "use the LoRA of this model's size."
        )
    return lora


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Tensors as the file names them, and the texts of its header."""
    texts: Mapping[str, str] = {}
    if path.suffix == ".safetensors":
        stored, texts = stored_safetensors(path)
        return {name: each.read() for name, each in stored.items()}, texts
    content: Any = read_pickle(path)
    if isinstance(content, dict):
        nested = [
            content[key] for key in ("generator_lora", "lora", "state_dict") if isinstance(content.get(key), dict)
        ]
        content = nested[0] if nested else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} is not a state dict of tensors; use the file with the LoRA.")
    return {str(key): from_pickle(path, str(key), value) for key, value in content.items()}, texts


def _sort(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by module, as the file spells it without prefixes, and role."""
    for pattern, form in _FORMS:
        found = sorted(key for key in tensors if re.search(pattern, key))
        if found:
            raise CheckpointError(
                f"{path} holds {form} in {len(found)} tensors ({few(found, 2)}), which is not read here; export it as "
                "plain LoRA, or use another file."
            )
    parts: dict[str, dict[str, Tensor]] = {}
    strangers: list[str] = []
    adapters: set[str] = set()
    for key, value in tensors.items():
        role, match = next(((role, m) for role, pattern in _ROLES if (m := pattern.fullmatch(key))), ("", None))
        if match is None:
            strangers.append(key)
            continue
        adapters |= {match.groupdict().get("adapter") or ""}
        roles = parts.setdefault(_bare(match.group(1)), {})
        if role in roles:
            raise CheckpointError(f"{path} names {few([key])} twice once prefixes are dropped; export it again.")
        roles[role] = value
    if len(adapters - {""}) > 1:
        raise CheckpointError(
            f"{path} holds {len(adapters - {''})} adapters ({few(sorted(adapters - {''}))}); export the one you mean."
        )
    if not any(roles.keys() - {"alpha"} for roles in parts.values()):
        raise CheckpointError(
            f"{path} has no lora_A, lora_B, lora_down or lora_up in its names; use the file with the LoRA."
        )
    if strangers:
        raise CheckpointError(
            f"{path} has {few(sorted(strangers))}, more than plain LoRA factors ({len(strangers)} of {len(tensors)} "
            "tensors); export it as plain LoRA."
        )
    return parts


def _bare(stem: str) -> str:
    """`base_model.model.model.blocks.0.ffn.0` -> `blocks.0.ffn.0`."""
    before = None
    while stem != before:
        before = stem
        for prefix in _PREFIXES:
            stem = stem.removeprefix(prefix)
        stem = unwrap_key(stem)
    return stem.replace(".processor.", ".")


class _Names:
    """The parameters of a model under every spelling that a LoRA may use for them."""

    def __init__(self, model: nn.Module) -> None:
        # Where an adapter is live already, PEFT has put the layer itself one step down.
        self.parameters = {
            name.replace(".base_layer.", "."): value for name, value in model.named_parameters() if ".lora_" not in name
        }
        self._parameter: dict[str, str] = {}
        self._module: dict[str, str] = {}
        self._spellings: dict[str, list[str]] = {}
        for original, name in to_original({name: name for name in self.parameters}).items():
            for spelling in (name, original):
                self._parameter[spelling] = name
                stem, module = spelling.rpartition(".")[0], name.rpartition(".")[0]
                if not name.endswith((".weight", ".bias")):
                    continue
                self._module[stem] = self._module[stem.replace(".", "_")] = module
                if stem not in self._spellings.setdefault(module, []):
                    self._spellings[module].append(stem)

    def module(self, stem: str) -> str:
        """Of this model; KeyError if it has none of that name."""
        return self._module[stem]

    def spellings(self, module: str) -> list[str]:
        """All dotted names of a module of this model."""
        return self._spellings[module]

    def target(self, stem: str, role: str) -> str | None:
        """The parameter that a whole difference is for; None for other roles, KeyError if there is no such one."""
        if role == "diff_m":  # the modulation of a block, or of the head
            tried = (f"{stem}.modulation", f"{stem}.scale_shift_table")
            return self._parameter[next((name for name in tried if name in self._parameter), tried[0])]
        if role in ("diff", "diff_b", "up_bias"):
            return self._parameter[f"{self._module[stem]}.{'weight' if role == 'diff' else 'bias'}"]
        return None


def _check_targets(path: Path, parts: Mapping[str, Mapping[str, Tensor]], names: _Names, model: str) -> None:
    """Every module and parameter there, every factor with its other half."""
    unknown = [stem for stem, roles in parts.items() if not _known(stem, roles, names)]
    if unknown:
        raise CheckpointError(
            f"{path} adapts {few(sorted(unknown))}, which {model} has not ({len(unknown)} of {len(parts)} modules); "
            "use its own LoRA, one made for this model."
        )
    halves = [
        f"no {'lora_B' if 'down' in roles else 'lora_A'} for {stem}"
        for stem, roles in parts.items()
        if ("down" in roles) != ("up" in roles) or (roles.keys() & {"alpha", "up_bias"} and not _carries(roles))
    ]
    if halves:
        raise CheckpointError(
            f"{path} has {few(sorted(halves))}: {len(halves)} of {len(parts)} modules are incomplete; fetch the file "
            "again."
        )
    modules: dict[str, list[str]] = {}
    for stem, roles in parts.items():
        if "down" in roles:
            modules.setdefault(names.module(stem), []).append(stem)
    twice = [few(stems) for stems in modules.values() if stems[1:]]
    if twice:
        raise CheckpointError(f"{path} adapts the same module under two names ({few(twice)}); export it again.")


def _carries(roles: Iterable[str]) -> bool:
    """Whether something is added at all; alpha may stand beside a whole difference."""
    return bool(set(roles) & {"up", "diff", "diff_b", "diff_m"})


def _known(stem: str, roles: Mapping[str, Tensor], names: _Names) -> bool:
    try:
        if (
            roles.keys() <= {"down", "up", "alpha", "up_bias"}
            and f"{names.module(stem)}.weight" not in names.parameters
        ):
            return False
        for role in roles:
            names.target(stem, role)
    except KeyError:
        return False
    return True
