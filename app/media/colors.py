"""Decoded frames of any pixel format as uint8 RGB of a given size: 10 bit, alpha, HDR and unmarked colours included."""

# pyright: reportUnknownMemberType=false
# (numpy's arrays of PyAV carry no shape.)

from __future__ import annotations

from functools import cache

import av
import numpy as np
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

_SWSCALE = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_UNSPECIFIED = 2
_HD_LINES = 720
"""From so many lines up a film that does not name its colour matrix has BT.709's, below BT.601's, as players do."""
_HDR = (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))
_WHITE_NITS, _HLG_PEAK_NITS = 203.0, 1000.0
"""What is white on paper in an HDR picture, and the brightest that HLG shows (ITU-R BT.2408, BT.2100)."""
_KNEE = 0.75
"""Brightness, of white, up to which a tone stays as it is; what is brighter is bent into the rest."""
_GAMMA = 2.2
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear light of one set of primaries in those of the other (ITU-R BT.2087)."""


class Colors:
    """Turns frames into pictures; one for all frames of a source, because its tables cost more than a frame."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def picture(self, frame: av.VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
        """A frame as uint8 RGB [height, width, 3]; what is transparent shows black.

        Raises:
            OSError: its pixel format cannot be read.
        """
        if frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb:
            frame.colorspace = int(Colorspace.ITU709) if frame.height >= _HD_LINES else int(Colorspace.ITU601)
        if frame.color_trc in _HDR:
            wide = self._scaled(frame, height, width, "rgb48le").astype(np.uint16, copy=False)
            return _to_sdr(wide, pq=frame.color_trc == _HDR[0])
        if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
            pixels = self._scaled(frame, height, width, "rgba").astype(np.uint16)
            return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
        return self._scaled(frame, height, width, "rgb24").astype(np.uint8, copy=False)

    def _scaled(self, frame: av.VideoFrame, height: int, width: int, form: str) -> NDArray[np.generic]:
        scaled = self._reformatter.reformat(frame, width, height, form, interpolation=int(_SWSCALE), threads=1)
        return scaled.to_ndarray()


def _to_sdr(pixels: NDArray[np.uint16], *, pq: bool) -> NDArray[np.uint8]:
    """HDR pixels [H, W, 3] of BT.2020 as a screen without HDR shows them best: white stays white, highlights bend."""
    light = _pq_light()[pixels] if pq else _hlg_light()[pixels]
    if not pq:  # HLG keeps the light of the scene, and its screen bends the whole by its brightness
        brightness = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= (brightness**0.2 * np.float32(_HLG_PEAK_NITS / _WHITE_NITS))[..., None]
    light = np.maximum(light @ _BT2020_TO_BT709.T, 0.0)
    brightest = np.maximum(light.max(axis=2), np.float32(1e-6))
    above = np.maximum(brightest - _KNEE, 0.0) / (1 - _KNEE)
    bent = np.minimum(brightest, _KNEE) + (1 - _KNEE) * above / (1 + above)
    shown = light * (bent / brightest)[..., None]
    return np.rint(255 * shown ** np.float32(1 / _GAMMA)).clip(0, 255).astype(np.uint8)


@cache
def _pq_light() -> NDArray[np.float32]:
    """Light of every 16-bit code of the perceptual quantiser (SMPTE ST 2084), white being 1."""
    code = np.linspace(0.0, 1.0, 1 << 16) ** (1 / 78.84375)
    light = (np.maximum(code - 0.8359375, 0.0) / (18.8515625 - 18.6875 * code)) ** (1 / 0.1593017578125)
    return (light * 10_000 / _WHITE_NITS).astype(np.float32)


@cache
def _hlg_light() -> NDArray[np.float32]:
    """Light of the scene, 0 to 1, of every 16-bit code of hybrid log-gamma (ARIB STD-B67)."""
    code = np.linspace(0.0, 1.0, 1 << 16)
    high = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(code <= 0.5, code**2 / 3, high).astype(np.float32)
