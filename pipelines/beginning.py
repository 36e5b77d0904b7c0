"""Beginning a film with given pictures: they are its first chunks, and what its memory holds when it goes on.

The pictures are encoded, their clean latents fill the memory as a film's own would (`Stream.prefill`), and what the
decoder makes of them is shown, so that nothing jumps where the film goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cache.types import View
from pipelines.lead_in import check_leads_in
from pipelines.streaming import Stream
from pipelines.types import Chunk, Controls, pixel_range, prompt_text


@torch.inference_mode()
def begin_with(stream: Stream, frames: NDArray[np.uint8], controls: Controls, parts: Sequence[int]) -> list[Chunk]:
    """Make the first chunks of a film of given pictures.

    Args:
        stream: that has not begun.
        frames: uint8 RGB [T, H, W, 3] of the film's size, as many as `parts` show: T = 4 * sum(parts) - 3.
        controls: the words under which the film begins.
        parts: latent frames of each chunk.

    Raises:
        ValueError: the film has begun, or the pictures are of another size, kind or number; nothing has changed.
    """
    state, latents = stream.state, _encoded(stream, frames, sum(parts))
    shown = stream.prefill(latents, controls)
    assert shown is not None  # there is an autoencoder
    chunks: list[Chunk] = []
    start = 0
    for index, part in enumerate(parts):
        latent = range(start, start + part)
        pixel = range(pixel_range(latent[0]).start, pixel_range(latent[-1]).stop)
        piece = shown[pixel.start : pixel.stop]
        chunks.append(
            Chunk(
                index=index,
                epoch=state.epoch,
                latent=latent,
                pixel=pixel,
                prompt=prompt_text(controls.prompt),
                pixels=piece,
                sha256=hashlib.sha256(piece.tobytes()).hexdigest(),
            )
        )
        start = latent.stop
    state.chunk = len(parts)
    return chunks


@torch.inference_mode()
def refer_to(stream: Stream, picture: NDArray[np.uint8], controls: Controls) -> int:
    """Let a film refer to a picture that it does not show: it lies clean in the sink, and the film is led in from it.

    Args:
        stream: that has not begun.
        picture: uint8 RGB [H, W, 3] of the film's size.
        controls: the words under which the film begins.

    Returns:
        Latent frames that lie before the film's first one: those of the picture, and the ones that lead in
        (pipelines/lead_in.py).

    Raises:
        ValueError: the film has begun, the picture is of another size or kind, or the plan takes none; nothing has
            changed.
    """
    count = len(check_leads_in(stream.engine).entering(View(0, 0)))
    latents = _encoded(stream, np.repeat(picture[None], pixel_range(count - 1).stop, axis=0), count)
    stream.prefill(latents, controls)
    return stream.lead_in(
        latents[:, -1:].repeat(1, stream.engine.policies.plan.width, 1, 1, 1)[:, : len(stream.entering)]
    )


def _encoded(stream: Stream, frames: NDArray[np.uint8], count: int) -> torch.Tensor:
    """`count` latent frames [1, F, C, h, w] of the pictures that a film begins with."""
    state, engine = stream.state, stream.engine
    if engine.autoencoder is None:
        raise ValueError("pictures enter through an autoencoder, and this engine has none")
    height, width = state.latents.ring.shape[-2:]
    scale = engine.autoencoder.spatial_scale
    wanted = (pixel_range(count - 1).stop, height * scale, width * scale, 3)
    if frames.dtype != np.uint8 or frames.shape != wanted:
        raise ValueError(f"these chunks begin with uint8 pictures {list(wanted)}, not {list(frames.shape)}")
    pixels = torch.as_tensor(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None] / 255
    device = engine.transformer.expects[0]
    memory = engine.autoencoder.init_encode_state(1, height, width, device)
    return engine.autoencoder.encode_stream(pixels.to(device), memory)[0]
