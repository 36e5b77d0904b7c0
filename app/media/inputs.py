"""Names of live sources as people write them: `webcam:0`, `webcam:NAME`, `rtsp://...`, `https://...`, `screen:2`."""

import re
from typing import NoReturn
from urllib.parse import urlsplit

from app.errors import UsageMistake, printable, shorten
from app.media.fit import Fit
from app.media.source import VideoSource

_LIVE = re.compile(r"(webcam|screen|rtsps?|https?)(:.*)?", re.IGNORECASE | re.DOTALL)
_KINDS = "webcam:0, webcam:NAME, rtsp://..., http(s)://..., screen or screen:2"


def is_live(text: str) -> bool:
    """Whether it names a live source rather than a file; a file of such a name is written ./screen."""
    return _LIVE.fullmatch(text) is not None


def live_source(text: str, fit: Fit) -> VideoSource:
    """The source that a text names, not opened yet.

    Raises:
        UsageMistake: there is none of this name, or it cannot be written like this.
    """
    found = _LIVE.fullmatch(text)
    if found is None:
        _refuse(text)
    kind, rest = found[1].lower(), (found[2] or "")[1:].strip()
    if kind == "screen":
        if rest and not re.fullmatch(r"[1-9]\d?", rest, re.ASCII):
            _refuse(text)
        from app.media.screen import ScreenSource

        return ScreenSource(int(rest or 1), fit)
    from app.media.camera import network, webcam

    if kind == "webcam":
        return webcam(rest or "0", fit)
    if not rest.startswith("//") or len(rest) < 3 or "\0" in text:
        _refuse(text)
    return network(text, printable(shorten(public_name(text), 80)), fit)


def public_name(text: str) -> str:
    """What may be told of a source: of an address neither user and password nor what stands behind its path."""
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.netloc else text


def _refuse(text: str) -> NoReturn:
    raise UsageMistake(f"{printable(shorten(text, 60))} names no source. Write {_KINDS}, or the name of a file.")
