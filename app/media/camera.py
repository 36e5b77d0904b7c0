"""Cameras and network streams, read with OpenCV: a webcam by number or name, RTSP and HTTP by their address."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from app.errors import UsageMistake, printable, shorten
from app.media.fit import Fit, Orientation
from app.media.opencv import import_opencv
from app.media.source import OPEN_SECONDS, Picture, SourceLost

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MISSED = 10
"""Reads in a row that may bring nothing before a device counts as gone."""
_PAUSE = 0.02
"""Seconds between two of them."""
_DEVICES = Path("/sys/class/video4linux")


class Capture(Protocol):
    """The part of cv2.VideoCapture that a source needs."""

    def isOpened(self) -> bool: ...
    def read(self) -> tuple[bool, Any]: ...
    def release(self) -> None: ...


class CameraSource:
    """A webcam or a network stream, a `VideoSource`.

    Args:
        name: what people call it.
        opens: makes the capture, which may then be not open; waits no longer than `OPEN_SECONDS`.
        fit: how its pictures become the model's size.
        refusal: what to say where it does not open.
        clock: seconds, for the times of pictures.
    """

    def __init__(
        self,
        name: str,
        opens: Callable[[], Capture],
        fit: Fit,
        *,
        refusal: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._opens, self._fit, self._refusal, self._clock = name, opens, fit, refusal, clock
        self._capture: Capture | None = None

    def open(self) -> None:
        """Open the device or the connection, and read a first picture: some open that never send one.

        Raises:
            UsageMistake: it is missing, busy, denied, or does not answer.
        """
        self._capture = self._opens()
        if not self._capture.isOpened() or not self._capture.read()[0]:
            raise UsageMistake(self._refusal)

    def read(self) -> Picture | None:
        """The next picture.

        Raises:
            SourceLost: it was unplugged, or the connection broke off.
        """
        assert self._capture is not None  # opened first
        for _ in range(_MISSED):
            found, pixels = self._capture.read()
            if found:
                return Picture(fitted(pixels, self._fit), self._clock())
            if not self._capture.isOpened():
                break
            time.sleep(_PAUSE)
        raise SourceLost(f"{self.name} was unplugged, or its connection broke off")

    def close(self) -> None:
        """Free the device."""
        if self._capture is not None:
            self._capture.release()


def fitted(pixels: NDArray[np.uint8], fit: Fit) -> NDArray[np.uint8]:
    """A picture as cameras and screens give it, uint8 BGR [H, W, 3 or more], as RGB in the size of `fit`."""
    cv2 = import_opencv()
    turned = Orientation().turned(fit.turn).upright(pixels[:, :, :3])
    height, width = fit.scaled(*turned.shape[:2])
    shrinks = height * width < turned.shape[0] * turned.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled: NDArray[np.uint8] = cv2.resize(turned[..., ::-1].copy(), (width, height), interpolation=how)
    return fit.place(scaled)


def webcam(which: str, fit: Fit) -> CameraSource:
    """A webcam by its number, or by a part of its name.

    Raises:
        UsageMistake: no camera has this name.
    """
    number = _number_of(which)
    name = f"webcam:{printable(shorten(which, 40))}"
    device = f"/dev/video{number}" if sys.platform == "linux" else f"camera {number}"

    def opens() -> Capture:
        cv2 = import_opencv()
        return cv2.VideoCapture(number)

    return CameraSource(name, opens, fit, refusal=_refusal_of(name, device))


def network(address: str, name: str, fit: Fit) -> CameraSource:
    """A stream by its address, rtsp:// or http(s)://; `name` is what of that may be told."""

    def opens() -> Capture:
        cv2 = import_opencv()
        milliseconds = int(1000 * (OPEN_SECONDS - 1))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)

    return CameraSource(
        name, opens, fit, refusal=f"{name} does not answer, or sends no video. Check the address and that it is on."
    )


def webcam_names() -> dict[int, str]:
    """The cameras of this machine by number, where the system tells; each only once."""
    names: dict[int, str] = {}
    for device in sorted(_DEVICES.glob("video*"), key=lambda path: int(path.name[5:])):
        try:
            if (device / "index").read_text().strip() == "0":  # others of a camera carry no pictures
                names[int(device.name[5:])] = (device / "name").read_text().strip()
        except OSError:
            continue
    return names


def _number_of(which: str) -> int:
    if which.isascii() and which.isdigit() and len(which) <= 3:
        return int(which)
    names = webcam_names()
    found = [number for number, name in names.items() if which and which.lower() in name.lower()]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"webcam:{number} ({printable(name)})" for number, name in names.items()) or "none was found"
    what = "Several cameras have" if found else "No camera has"
    raise UsageMistake(f"{what} {printable(shorten(which, 40))!r} in the name. Choose one of them: {there}.")


def _refusal_of(name: str, device: str) -> str:
    """Why a camera does not open, as far as the system tells."""
    path = Path(device)
    if not path.is_absolute():
        return f"{name} does not open. Plug it in, close what uses it, and allow this program to use it."
    if not path.exists():
        there = ", ".join(f"webcam:{number} ({printable(each)})" for number, each in webcam_names().items())
        return f"There is no {name} ({device}). " + (f"Choose one of {there}." if there else "Plug a camera in.")
    try:
        path.open("rb").close()
    except PermissionError:
        return f"{name} may not be used ({device}). Add yourself to the group video, and log in again."
    except OSError as error:
        return f"{name} is busy or broken ({error.strerror}). Close what uses it, or plug it in again."
    return f"{name} sends no pictures, for another program uses it. Close that, or choose another camera."
