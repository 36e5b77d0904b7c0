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
    state, engine = stream.state, stream.engine
    if engine.autoencoder is None:
        raise ValueError("pictures enter through an autoencoder, and this engine has none")
    count, (height, width) = sum(parts), state.latents.ring.shape[-2:]
    scale = engine.autoencoder.spatial_scale
    wanted = (pixel_range(count - 1).stop, height * scale, width * scale, 3)
    if frames.dtype != np.uint8 or frames.shape != wanted:
        raise ValueError(f"these chunks begin with uint8 pictures {list(wanted)}, not {list(frames.shape)}")
    pixels = torch.as_tensor(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None] / 255
    device = engine.transformer.expects[0]
    memory = engine.autoencoder.init_encode_state(1, height, width, device)
    latents, _ = engine.autoencoder.encode_stream(pixels.to(device), memory)
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
