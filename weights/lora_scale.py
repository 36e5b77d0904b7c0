"""How strong a LoRA is: alpha and its rank, wherever a trainer wrote them.

The factors alone do not say it. Alpha may stand beside them, in the header (diffusers: `lora_adapter_metadata`; kohya:
`ss_network_alpha`) or in PEFT's adapter_config.json beside the file; layers may have their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from weights.plain_files import CheckpointError, few, parse_json, read_json, shown
from weights.schema import validate

_ADAPTER = "lora_adapter_metadata"
_ALPHAS = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")
_RSLORA = ("use_rslora", "rslora", "rs_lora")
_INITS = ("pissa", "olora", "corda", "loftq", "eva_residual")  # which change the base weights as well


class _AdapterConfig(BaseModel):
    """What counts of PEFT's LoraConfig."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")

    r: int | None = None
    lora_alpha: float | None = None
    rank_pattern: Annotated[dict[str, int], Field(max_length=10_000)] | None = None
    alpha_pattern: Annotated[dict[str, float], Field(max_length=10_000)] | None = None
    use_rslora: bool | None = False
    use_dora: bool | None = False
    fan_in_fan_out: bool | None = False
    peft_type: str | None = "LORA"
    init_lora_weights: bool | str | None = True


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a file says of its scale.

    Attributes:
        alpha: of all modules; None = it does not say.
        rank: of all modules, to check the factors with; None = it does not say.
        alphas: by a module's name or the end of it, the first that fits counts; `^` = the whole name.
        ranks: likewise.
        rslora: the scale is alpha / sqrt(rank) and not alpha / rank.
    """

    alpha: float | None = None
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict[str, float])
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])
    rslora: bool = False

    def of(self, path: Path, names: Iterable[str], rank: int, beside: Tensor | None, given: float | None) -> float:
        """The factor before b @ a of one module.

        Args:
            path: the LoRA's file, for sentences.
            names: all spellings of the module.
            rank: that its factors have.
            beside: the alpha beside its factors.
            given: the alpha of whoever asks, where the file does not say.

        Raises:
            CheckpointError: the file contradicts itself, or an alpha is none.
        """
        names = list(names)
        wanted = _match(self.ranks, names, self.rank)
        if wanted is not None and wanted != rank:
            raise CheckpointError(
                f"{path} says that {names[0]} has rank {wanted}, and its factors have {rank}; fetch the file again."
            )
        alpha = _match(self.alphas, names, self.alpha)
        if beside is not None:
            if self.rslora or beside.numel() != 1:
                why = "rslora in its header" if self.rslora else f"a shape of {list(beside.shape)}"
                raise CheckpointError(f"{path} has an alpha beside {names[0]} and {why}; export it again.")
            alpha = float(beside)
        alpha = given if alpha is None else alpha
        if alpha is None:
            if self.rslora:
                raise CheckpointError(f"{path} says rslora and no alpha; give the alpha it was trained with.")
            return 1.0
        if not math.isfinite(alpha) or alpha == 0:
            raise CheckpointError(f"{path} has the alpha {alpha:g} for {names[0]}, which adds nothing; fetch it again.")
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_scaling(path: Path, texts: Mapping[str, str]) -> Scaling:
    """What a LoRA's header says of its scale, or PEFT's adapter_config.json beside an adapter_model file.

    Raises:
        CheckpointError: it cannot be read, or asks for another method than plain LoRA.
    """
    beside = path.with_name("adapter_config.json")
    if _ADAPTER in texts:
        try:
            content = parse_json(texts[_ADAPTER].encode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise CheckpointError(f"{path}: its {_ADAPTER} is not JSON ({shown(error)}); export it again.") from error
        return _of_adapter(path, content)
    if path.stem == "adapter_model" and beside.exists():
        return _of_adapter(beside, read_json(beside))
    rslora = any(texts.get(name, "").lower() in ("true", "1") for name in _RSLORA)
    for name in _ALPHAS:
        if name in texts and texts[name].strip().lower() not in ("", "none", "dynamic"):  # of resized files
            return Scaling(alpha=_number(path, name, texts[name]), rslora=rslora)
    return Scaling(rslora=rslora)


def _of_adapter(file: Path, content: Any) -> Scaling:
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: its adapter's settings are no JSON object; export it again.")
    own = {key.removeprefix("transformer."): value for key, value in content.items() if key.startswith("transformer.")}
    config = validate(_AdapterConfig, own or content, file)
    init = config.init_lora_weights
    wrong = [
        what
        for what, there in (
            ("DoRA (use_dora)", config.use_dora),
            ("fan_in_fan_out", config.fan_in_fan_out),
            (f"the method {shown(config.peft_type, 40)}", (config.peft_type or "LORA").upper() != "LORA"),
            (f"{shown(init, 40)}, which changes the base", isinstance(init, str) and init.lower().startswith(_INITS)),
        )
        if there
    ]
    if wrong:
        raise CheckpointError(f"{file} asks for {few(wrong)}, which is not read here; export it as plain LoRA.")
    alphas, ranks = (config.alpha_pattern or {}), (config.rank_pattern or {})
    return Scaling(config.lora_alpha, config.r, _plain(file, alphas), _plain(file, ranks), bool(config.use_rslora))


def _plain(file: Path, patterns: Mapping[str, Any]) -> dict[str, Any]:
    """The patterns as names; PEFT takes them for regular expressions, which a file must not make us run."""
    names = {key.replace("\\.", ".").removesuffix("$"): value for key, value in patterns.items()}
    odd = [name for name in names if not re.fullmatch(r"\^?[\w.]+", name)]
    if odd:
        raise CheckpointError(
            f"{file} gives alphas or ranks by the pattern {few(odd)}, and only names are read here; export it again."
        )
    return {
        ("^" if name.startswith("^") else "") + name.removeprefix("^").removeprefix("transformer."): value
        for name, value in names.items()
    }


def _match(patterns: Mapping[str, Any], names: Iterable[str], default: Any) -> Any:
    for pattern, value in patterns.items():
        plain = pattern.removeprefix("^")
        if any(name == plain or (plain == pattern and name.endswith(f".{plain}")) for name in names):
            return value
    return default


def _number(path: Path, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CheckpointError(f"{path} has the {name} {shown(text, 40)!r}, no number; export it again.") from None
