"""Virtual camera: a film as a camera of this machine, which video calls and OBS can choose, through pyvirtualcam."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from app.errors import RenderFailure, UsageMistake

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "virtualcam"
"""What `--output` is called that means it; a file of that name is written ./virtualcam."""
_QUEUED = 24
"""Frames that wait to be shown: the chunk that is on air and the next."""


class Device(Protocol):
    """The part of pyvirtualcam.Camera that is needed."""

    device: str

    def send(self, frame: Any) -> None: ...
    def close(self) -> None: ...


def open_device(width: int, height: int, fps: float) -> Device:
    """Open the virtual camera of this machine.

    Raises:
        UsageMistake: pyvirtualcam, or the driver that it speaks to, is missing.
    """
    try:
        import pyvirtualcam  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageMistake(
            "--output virtualcam needs pyvirtualcam, which is not installed. Run pip install pyvirtualcam."
        ) from None
    try:
        return pyvirtualcam.Camera(width=width, height=height, fps=fps)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    except RuntimeError as error:
        raise UsageMistake(
            f"There is no virtual camera to speak to ({str(error).strip().splitlines()[0]}). Linux: install "
            "v4l2loopback-dkms and run modprobe v4l2loopback; Windows and macOS: install OBS Studio."
        ) from None


class VirtualCamera:
    """Shows frames evenly on a thread of its own, while the next ones are made; a film that is late stands still.

    Args:
        device: what shows them.
        fps: frames a second.
        clock: seconds.
    """

    def __init__(self, device: Device, fps: Fraction, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.device, self.shown = device, 0
        self._step, self._clock = float(1 / fps), clock
        self._waiting: deque[NDArray[np.uint8]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="virtual camera", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            if kind is None:  # what was made is shown to its end
                self._changed.wait_for(lambda: not self._waiting or self._error is not None)
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(2)
        self.device.close()

    def show(self, pixels: NDArray[np.uint8]) -> None:
        """Hand over frames, uint8 RGB [T, H, W, 3]; waits while a chunk is still to be shown.

        Raises:
            RenderFailure: the device has gone.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) + len(pixels) <= _QUEUED or self._error is not None)
            if self._error is not None:
                raise RenderFailure(
                    f"The virtual camera takes no more frames ({self._error}). Start it, and run this again."
                ) from self._error
            self._waiting.extend(pixels)
            self._changed.notify_all()

    def _run(self) -> None:
        due = self._clock()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._stopped)
                    if self._stopped:
                        return
                    frame = self._waiting.popleft()
                    self._changed.notify_all()
                due = max(due, self._clock() - self._step)  # after a wait there is no burst
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, max(0.0, due - self._clock()))
                self.device.send(frame)
                self.shown += 1
                due += self._step
        except BaseException as error:  # told to whoever hands over frames, on their thread
            with self._changed:
                self._error = error
                self._changed.notify_all()
