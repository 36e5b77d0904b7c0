"""Tiny video autoencoder of the TAEHV type, with per-layer memory that is passed in and out.

One class serves the released `taew2_1` weights (the defaults) and the embedded model's own small autoencoder, because
both differ only in widths; the layout and key names follow madebyollin/taehv (MIT), the code is our own. Every layer
looks at the present and at one past input, so a stream decodes exactly what a whole clip does with constant memory.

Dimension key: B streams, T frames in time, C H W channels and size at some layer, h w latent size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

State = list[Tensor]


def _conv3(c_in: int, c_out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=bias)


class SoftClamp(nn.Module):
    """Squash latents smoothly into (-3, 3), so that an outlier cannot blow up the picture."""

    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * torch.tanh(x / 3.0)


class MemBlock(nn.Module):
    """Residual block that sees each frame together with the frame before it (zeros before the first)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Sequential(
            _conv3(2 * width, width), nn.ReLU(), _conv3(width, width), nn.ReLU(), _conv3(width, width)
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """Combine frames x and the frames one step earlier, both (B*T, C, H, W)."""
        return torch.relu(self.conv(torch.cat([x, past], dim=1)) + x)


class TimePool(nn.Module):
    """Merge `stride` consecutive frames into one with a 1x1 convolution over their stacked channels."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.conv(x.reshape(n // self.stride, self.stride * c, h, w))


class TimeGrow(nn.Module):
    """Split every frame into `stride` consecutive ones with a 1x1 convolution."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.conv(x).reshape(n * self.stride, c, h, w)


class TimeSplit(nn.Module):
    """Split every frame into `stride` consecutive ones that its channels already hold one after the other."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n * self.stride, c // self.stride, h, w)


def _per_stage(name: str, values: Sequence[int], count: int) -> tuple[int, ...]:
    if len(values) != count or any(value < 1 for value in values):
        raise ValueError(f"{name} must be {count} positive integers, got {list(values)}.")
    return tuple(values)


def run_layers(layers: nn.Sequential, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Apply layers to (B, T, C, H, W) frames, all T at once; `state` holds each MemBlock's last input."""
    batch = x.shape[0]
    x = x.flatten(0, 1)
    kept: State = []
    for layer in layers:
        if isinstance(layer, MemBlock):
            x_BTCHW = x.unflatten(0, (batch, -1))
            first = torch.zeros_like(x_BTCHW[:, :1]) if state is None else state[len(kept)]
            past = torch.cat([first, x_BTCHW[:, :-1]], dim=1).flatten(0, 1)
            kept.append(x_BTCHW[:, -1:].clone())
            x = layer(x, past)
        else:
            x = layer(x)
    return x.unflatten(0, (batch, -1)), kept


class AutoencoderTAEHV(ModelMixin, ConfigMixin):
    """Video autoencoder: pixels (B, T, 3, H, W) in 0..1 to and from latents (B, F, C, h, w).

    Space shrinks by patch_size * 2^stages (stages = len(encoder_blocks), three in all released models), time by the
    product of `time_downscale` (4). In a stream latent 0 is one pixel frame and every later latent is four.

    Args:
        latent_channels: C of a latent.
        patch_size: side of the pixel squares that the last layer's channels unfold into, and of those folded into
            channels before the first layer.
        encoder_patch_size: side of the latter where it is smaller: the encoder then looks at a picture that is
            smaller by as much, because what it has to say fits into the latents anyway. None means `patch_size`.
        encoder_widths: channels of the stem and of the stages that each halve the size.
        decoder_widths: channels of the stages and of the full-size head.
        encoder_blocks: MemBlocks after each halving.
        decoder_blocks: MemBlocks before each doubling.
        time_downscale: frames merged before each halving.
        time_upscale: frames made after each doubling.
        upsample: how the decoder doubles: "nearest" repeats pixels and convolves at the larger size (taehv); "shuffle"
            convolves at the smaller size and moves channels to pixels, which costs a quarter and learns far faster;
            "together" makes the frames of `time_upscale` in that convolution as well, so that what moves has features
            of its own in each of them.
        latents_mean: per-channel mean taken off by `encode` and added by `decode`; None means 0.
        latents_std: per-channel spread, likewise; None means 1 (taew2_1 works on normalised latents already).
    """

    latents_at_once = 0
    """So many go through the decoder of a stream together, which takes memory; 0: all that are given."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        patch_size: int = 1,
        encoder_patch_size: int | None = None,
        encoder_widths: Sequence[int] = (64, 64, 64, 64),
        decoder_widths: Sequence[int] = (256, 128, 64, 64),
        encoder_blocks: Sequence[int] = (3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3),
        time_downscale: Sequence[int] = (2, 2, 1),
        time_upscale: Sequence[int] = (1, 2, 2),
        upsample: str = "nearest",
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        stages = len(encoder_blocks)
        enc = _per_stage("encoder_widths", encoder_widths, stages + 1)
        dec = _per_stage("decoder_widths", decoder_widths, stages + 1)
        enc_blocks = _per_stage("encoder_blocks", encoder_blocks, stages)
        dec_blocks = _per_stage("decoder_blocks", decoder_blocks, stages)
        down = _per_stage("time_downscale", time_downscale, stages)
        up = _per_stage("time_upscale", time_upscale, stages)
        self.time_scale = math.prod(down)
        if self.time_scale != math.prod(up):
            raise ValueError(f"time_downscale {down} and time_upscale {up} must have the same product.")
        if upsample not in ("nearest", "shuffle", "together"):
            raise ValueError(f"upsample must be 'nearest', 'shuffle' or 'together', got {upsample!r}.")
        for name, values in (("latents_mean", latents_mean), ("latents_std", latents_std)):
            if values is not None and len(values) != latent_channels:
                raise ValueError(f"{name} needs {latent_channels} values, one per channel, got {len(values)}.")
        seen = encoder_patch_size or patch_size
        if patch_size % seen:
            raise ValueError(f"encoder_patch_size must divide patch_size, {patch_size}; {seen} does not.")
        self.spatial_scale = patch_size * 2**stages
        self.encoder_shrink = patch_size // seen

        layers: list[nn.Module] = [_conv3(3 * seen**2, enc[0]), nn.ReLU()]
        for stage in range(stages):
            layers += [TimePool(enc[stage], down[stage]), _conv3(enc[stage], enc[stage + 1], stride=2, bias=False)]
            layers += [MemBlock(enc[stage + 1]) for _ in range(enc_blocks[stage])]
        self.encoder = nn.Sequential(*layers, _conv3(enc[-1], latent_channels))

        layers = [SoftClamp(), _conv3(latent_channels, dec[0]), nn.ReLU()]
        for stage in range(stages):
            layers += [MemBlock(dec[stage]) for _ in range(dec_blocks[stage])]
            if upsample == "nearest":
                layers += [nn.Upsample(scale_factor=2), TimeGrow(dec[stage], up[stage])]
                layers += [_conv3(dec[stage], dec[stage + 1], bias=False)]
            elif upsample == "together":
                layers += [_conv3(dec[stage], 4 * up[stage] * dec[stage + 1], bias=False), nn.PixelShuffle(2)]
                layers += [TimeSplit(up[stage])]
            else:
                layers += [_conv3(dec[stage], 4 * dec[stage + 1], bias=False), nn.PixelShuffle(2)]
                layers += [TimeGrow(dec[stage + 1], up[stage])]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv3(dec[-1], 3 * patch_size**2))

    # ------------------------------------------------------------------ whole clips

    def encode(self, pixels: Tensor, *, pad: str = "end", shrunk: bool = False) -> Tensor:
        """Encode a whole clip.

        Args:
            pixels: (B, T, 3, H, W) in 0..1; H and W multiples of `spatial_scale`.
            shrunk: the picture is already `encoder_shrink` times smaller, as the encoder looks at it.
            pad: where a clip that does not fill its last group of frames is filled up: "end" repeats the last frame
                (what taehv does), "start" repeats the first one (what `encode_stream` does).

        Returns:
            Normalised latents (B, ceil(T / time_scale), C, h, w).
        """
        if pad not in ("end", "start"):
            raise ValueError(f"pad must be 'end' or 'start', got {pad!r}.")
        self._check_pixels(pixels, self.spatial_scale // (self.encoder_shrink if shrunk else 1))
        missing = -pixels.shape[1] % self.time_scale
        if missing and pad == "end":
            pixels = torch.cat([pixels, pixels[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        elif missing:
            pixels = torch.cat([pixels[:, :1].expand(-1, missing, -1, -1, -1), pixels], dim=1)
        latents, _ = run_layers(self.encoder, self.fold(pixels, shrunk=shrunk), None)
        return self._normalise(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode a whole clip of normalised latents (B, F, C, h, w) into 4F - 3 frames (B, T, 3, H, W) in 0..1."""
        return self.unfold(self.decode_raw(latents))[:, self.time_scale - 1 :].clamp(0.0, 1.0)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Run the decoder alone: (B, 4F, 3 * patch_size^2, ., .), before unfolding, trim and clamp."""
        self._check_latents(latents)
        return run_layers(self.decoder, self._denormalise(latents), None)[0]

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruct a clip for training.

        Args:
            pixels: (B, 4F - 3, 3, H, W) in 0..1.
            noise: added to the normalised latents before decoding, or None.

        Returns:
            The reconstruction, same shape, not clamped so that gradients survive, and the normalised latents.
        """
        latents = self.encode(pixels, pad="start")
        raw = self.decode_raw(latents if noise is None else latents + noise)
        return self.unfold(raw)[:, self.time_scale - 1 :], latents

    # ------------------------------------------------------------------ streams

    def init_decode_state(
        self, batch: int, h: int, w: int, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> State:
        """Memory of a stream before its first latent frame, for latents of h x w.

        Returns:
            A flat list of tensors whose sizes never change: first a (1,) int64 count of frames already seen, on the
            CPU whatever `device` is (reading it never waits for a device), then each MemBlock's last input.
        """
        return self._init_state(self.decoder, batch, h, w, device, dtype)

    def init_encode_state(
        self, batch: int, h: int, w: int, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> State:
        """Memory of an encoding stream before its first pixel frame; h and w are the latent's size."""
        side = self.spatial_scale // self.config["patch_size"]  # shrinking comes before the first layer
        return self._init_state(self.encoder, batch, h * side, w * side, device, dtype)

    def decode_stream(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode the next latent frames of a stream.

        Args:
            latents: (B, F, C, h, w), normalised; F >= 1.
            state: from `init_decode_state` or the last call; it is not modified.

        Returns:
            Pixels (B, T, 3, H, W) in 0..1, one frame for the stream's first latent and four for each other, and the
            new state.
        """
        self._check_latents(latents)
        seen, memory = int(state[0]), state[1:]
        parts: list[Tensor] = []
        for part in self._denormalise(latents).split(self.latents_at_once or latents.shape[1], dim=1):
            raw, memory = run_layers(self.decoder, part, memory)
            parts.append(raw)
        raw = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        pixels = self.unfold(raw)[:, self.time_scale - 1 if seen == 0 else 0 :].clamp(0.0, 1.0)
        return pixels, [state[0] + latents.shape[1], *memory]

    def encode_stream(self, pixels: Tensor, state: State, *, shrunk: bool = False) -> tuple[Tensor, State]:
        """Encode the next pixel frames of a stream.

        Args:
            pixels: (B, T, 3, H, W) in 0..1; T = 1 + 4n in the first call, 4n in every later one.
            state: from `init_encode_state` or the last call; it is not modified.
            shrunk: as of `encode`.

        Returns:
            Normalised latents (B, F, C, h, w), one for the very first frame and one for each group of four, and the
            new state.
        """
        self._check_pixels(pixels, self.spatial_scale // (self.encoder_shrink if shrunk else 1))
        seen, frames = int(state[0]), pixels.shape[1]
        if seen == 0:
            pixels = torch.cat([pixels[:, :1].expand(-1, self.time_scale - 1, -1, -1, -1), pixels], dim=1)
        if pixels.shape[1] % self.time_scale:
            want = f"1 + a multiple of {self.time_scale}" if seen == 0 else f"a multiple of {self.time_scale}"
            raise ValueError(f"This call of encode_stream takes {want} pixel frames, got {frames}.")
        latents, memory = run_layers(self.encoder, self.fold(pixels.to(self.dtype), shrunk=shrunk), state[1:])
        return self._normalise(latents), [state[0] + frames, *memory]

    def unnormalised(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, F, C, h, w) as the encoder made them."""
        return self._denormalise(latents)

    # ------------------------------------------------------------------ parts

    def _init_state(
        self,
        layers: nn.Sequential,
        batch: int,
        h: int,
        w: int,
        device: torch.device | str,
        dtype: torch.dtype | None,
    ) -> State:
        dtype = dtype or self.dtype
        state: State = [torch.zeros(1, dtype=torch.int64)]
        for layer in layers:
            if isinstance(layer, nn.Upsample | nn.PixelShuffle):
                h, w = 2 * h, 2 * w
            elif isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                h, w = h // 2, w // 2
            elif isinstance(layer, MemBlock):
                state.append(torch.zeros(batch, 1, layer.width, h, w, device=device, dtype=dtype))
        return state

    @staticmethod
    def _check_pixels(pixels: Tensor, scale: int) -> None:
        if pixels.ndim != 5 or pixels.shape[2] != 3 or pixels.shape[1] < 1:
            raise ValueError(f"pixels must be (B, T, 3, H, W) with T >= 1, got {tuple(pixels.shape)}.")
        if pixels.shape[3] % scale or pixels.shape[4] % scale:
            raise ValueError(f"Height and width must be multiples of {scale}, got {tuple(pixels.shape[3:])}.")

    def _check_latents(self, latents: Tensor) -> None:
        channels = self.config["latent_channels"]
        if latents.ndim != 5 or latents.shape[2] != channels or latents.shape[1] < 1:
            raise ValueError(f"latents must be (B, F, {channels}, h, w) with F >= 1, got {tuple(latents.shape)}.")

    def fold(self, pixels: Tensor, *, shrunk: bool = False) -> Tensor:
        """What the encoder's first layer sees of (B, T, 3, H, W): shrunk, then squares of pixels as channels."""
        if self.encoder_shrink > 1 and not shrunk:
            pixels = F.avg_pool2d(pixels.flatten(0, 1), self.encoder_shrink).unflatten(0, pixels.shape[:2])
        patch = self.config["patch_size"] // self.encoder_shrink
        return F.pixel_unshuffle(pixels, patch) if patch > 1 else pixels

    def unfold(self, raw: Tensor) -> Tensor:
        """Pixels (B, T, 3, H, W) of what `decode_raw` gives."""
        return F.pixel_shuffle(raw, self.config["patch_size"]) if self.config["patch_size"] > 1 else raw

    def _statistic(self, values: Sequence[float] | None, like: Tensor) -> Tensor | None:
        return None if values is None else like.new_tensor(list(values)).view(1, 1, -1, 1, 1)

    def _normalise(self, latents: Tensor) -> Tensor:
        mean = self._statistic(self.config["latents_mean"], latents)
        std = self._statistic(self.config["latents_std"], latents)
        latents = latents if mean is None else latents - mean
        return latents if std is None else latents / std

    def _denormalise(self, latents: Tensor) -> Tensor:
        mean = self._statistic(self.config["latents_mean"], latents)
        std = self._statistic(self.config["latents_std"], latents)
        latents = latents if std is None else latents * std
        return latents if mean is None else latents + mean
