"""Compressed picture: a JPEG or WebP that somebody sent, decoded to the size of a film."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from app.errors import printable
from app.media.fit import Fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST = 2048
"""Pixels a side of a picture that is decoded: a picture of 200 KB may claim to have 65535."""


class BadPicture(ValueError):
    """A picture that is not shown; the text says why, in a sentence."""


def decoded_picture(payload: bytes, name: str, fit: Fit) -> NDArray[np.uint8]:
    """A picture as uint8 RGB [H, W, 3] of the size of `fit`; the same bytes give the same pixels.

    Args:
        payload: the compressed picture.
        name: its format, as Pillow calls it.
        fit: the film's size, and how the picture becomes one of it.

    Raises:
        BadPicture: it is damaged, of another format than it says, or too large.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(BytesIO(payload), formats=(name,)) as picture:
            width, height = picture.size
            if max(width, height) > LARGEST:
                raise BadPicture(f"A picture of {width}x{height} is too large; {LARGEST} pixels a side are the most.")
            tall, wide = fit.scaled(height, width)
            if max(tall, wide) > 2 * LARGEST:
                raise BadPicture(f"A picture of {width}x{height} is too long and narrow for the film.")
            picture.draft("RGB", (wide, tall))  # a JPEG that is much larger is decoded smaller
            whole = picture.convert("RGB")
    except BadPicture:
        raise
    except Exception as error:  # Pillow raises what its decoders raise: of many kinds, for any damaged byte
        raise BadPicture(f"A picture is no {name} that can be read ({printable(type(error).__name__)}).") from error
    if whole.size != (wide, tall):
        whole = whole.resize((wide, tall), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return fit.place(np.array(whole))  # a copy that can be written to
