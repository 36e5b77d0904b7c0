# pyright: standard
"""Rotary positions in three axes, built in float64 from integers and cast once.

Keys are stored un-rotated and rotated when they are read, so a position is an integer that a policy chooses per
pass, without a table and without a limit (Su et al. 2021, arXiv 2104.09864; axes as in Wan 2.1, arXiv 2503.20314).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cache.precision import finest


@lru_cache(maxsize=16)
def frequencies(head_dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor, Tensor]:
    """Angle per position step of each channel pair, float64, for time, row and column.

    Rows and columns take 2 * (head_dim // 6) channels each and time the rest; every axis has its own exponent base.
    """
    spatial = 2 * (head_dim // 6)
    dims = (head_dim - 2 * spatial, spatial, spatial)
    time, row, column = (1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim) for dim in dims)
    return time, row, column


@lru_cache(maxsize=16)
def _frequencies_on(head_dim: int, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(step.to(finest(device)).to(device) for step in frequencies(head_dim))


@lru_cache(maxsize=16)
def _spatial_angles(height: int, width: int, head_dim: int) -> Tensor:
    """Angles of one frame's raster of tokens without the time part, float64 [height * width, pairs]."""
    _, row, column = frequencies(head_dim)
    rows = torch.outer(torch.arange(height, dtype=torch.float64), row)
    columns = torch.outer(torch.arange(width, dtype=torch.float64), column)
    grid = torch.cat(
        [
            rows[:, None].expand(height, width, -1),
            columns[None].expand(height, width, -1),
        ],
        dim=-1,
    )
    return grid.reshape(height * width, -1)


def rotary_tables(
    positions: Sequence[int],
    height: int,
    width: int,
    head_dim: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine for frames at the temporal `positions`, each a raster of height x width tokens.

    Args:
        positions: one integer a frame, of any size; they need not be contiguous.
        height: rows of tokens in a frame.
        width: columns of tokens in a frame.
        head_dim: channels of one attention head, even.
        device: where the tables go.
        dtype: float32, or float64 for a float64 model.

    Returns:
        cos and sin, each [len(positions) * height * width, head_dim / 2], tokens ordered frame, row, column.
    """
    time, _, _ = frequencies(head_dim)
    angles_t = torch.outer(torch.tensor(list(positions), dtype=torch.float64), time)
    angles_s = _spatial_angles(height, width, head_dim)
    frames, tokens = len(angles_t), len(angles_s)
    angles = torch.cat(
        [angles_t[:, None].expand(frames, tokens, -1), angles_s[None].expand(frames, tokens, -1)], dim=-1
    ).reshape(frames * tokens, -1)
    return angles.cos().to(dtype).to(device), angles.sin().to(dtype).to(device)  # not every device takes float64


@lru_cache(maxsize=64)
def frame_tables(
    position: int, height: int, width: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of one frame, each [height * width, head_dim / 2]; kept, as a frame is shown many times."""
    with torch.inference_mode(mode=False):  # kept for training too, whoever asks first
        return rotary_tables([position], height, width, head_dim, device=device, dtype=dtype)


def rotary_tables_at(places: Tensor, head_dim: int, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Cosine and sine for single tokens, each at a place of its own.

    Args:
        places: integers [..., S, 3]: position in time, row, column.
        head_dim: channels of one attention head, even.
        dtype: float32, or float64 for a float64 model.

    Returns:
        cos and sin, each [..., S, head_dim / 2], on the device of `places`.
    """
    axes = zip(places.to(finest(places.device)).unbind(-1), _frequencies_on(head_dim, places.device), strict=True)
    angles = torch.cat([at[..., None] * step for at, step in axes], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """Rotate interleaved channel pairs.

    Args:
        x: queries or keys, [..., S, N, D].
        cos: [S, D / 2], or with the leading axes of `x`.
        sin: the same.
        out: where the result goes, like `x`; a new tensor if None.

    Returns:
        The same shape and dtype as `x`; half precision is computed in float32.
    """
    if x.device.type == "cpu" and x.dtype == cos.dtype and x.dtype.itemsize > 2:  # 6 times as fast there
        pairs, table = torch.view_as_complex(x.unflatten(-1, (-1, 2))), torch.complex(cos, sin).unsqueeze(-2)
        if out is None:
            return torch.view_as_real(pairs * table).flatten(-2)
        torch.mul(pairs, table, out=torch.view_as_complex(out.unflatten(-1, (-1, 2))))
        return out
    out = torch.empty_like(x) if out is None else out
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out
