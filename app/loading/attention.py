"""Attention kernels by name: which of diffusers' backends each is, and which films it can compute."""

from typing import TYPE_CHECKING, Protocol

from app.config.readers import ATTENTION
from app.errors import UsageMistake
from pipelines.presets.knobs import knob_values

if TYPE_CHECKING:
    from app.loading.engine_request import EngineRequest

BACKENDS = {
    "native": "native",
    "math": "_native_math",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "flash3": "_flash_3",
    "sage": "sage",
    "xformers": "xformers",
}
"""diffusers' name of every kernel but auto, which is native."""
WEIGHTED = ("native", "math", "cudnn")
"""Kernels that take a weight for what is remembered (`--kv_cache_attention_bias`)."""
assert set(BACKENDS) | {"auto"} == set(ATTENTION)


class Attending(Protocol):
    """A transformer whose kernel can be chosen."""

    def set_attention_backend(self, backend: str) -> None: ...


def use_attention(transformer: Attending, request: "EngineRequest") -> None:
    """Have a transformer compute attention with the kernel of the request.

    Raises:
        UsageMistake: it is not installed or does not work here, or the preset asks what it cannot do.
    """
    name = request.attention
    if request.parallel or request.gpus is not None:
        raise UsageMistake("--attention chooses the kernel of one device. Leave it out, or give --parallel single.")
    bias = knob_values(request.preset).get("kv_cache_attention_bias")
    if bias not in (None, 1.0) and name not in WEIGHTED:
        raise UsageMistake(
            f"--attention {name} cannot weigh what is remembered, and kv_cache_attention_bias is {bias:g}. Choose "
            f"{', '.join(WEIGHTED)}, or 1."
        )
    try:
        transformer.set_attention_backend(BACKENDS[name])
    except Exception as error:  # of diffusers and of the kernel's package, each in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageMistake(
            f"--attention {name} does not work here ({reason}). rivulet bench attention says which do."
        ) from error
