"""The screen of this machine, read with mss: all of a monitor, as often as a film needs it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import UsageMistake
from app.media.camera import fitted
from app.media.fit import Fit
from app.media.source import Picture, SourceLost

if TYPE_CHECKING:
    from mss.base import MSSBase

RATE = 30.0
"""Pictures a second: more than a film takes, and few enough to leave the machine its breath."""


class ScreenSource:
    """A monitor, a `VideoSource`.

    Args:
        monitor: its number, from 1.
        fit: how its pictures become the model's size.
        grabber: opens what takes them; mss if None.
        clock: seconds.
        wait: sleeps for so many.
    """

    def __init__(
        self,
        monitor: int,
        fit: Fit,
        *,
        grabber: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = "screen" if monitor == 1 else f"screen:{monitor}"
        self._monitor, self._fit, self._clock, self._wait = monitor, fit, clock, wait
        self._grabber = grabber or _mss
        self._screen: MSSBase | None = None
        self._due = 0.0

    def open(self) -> None:
        """Find the monitor.

        Raises:
            UsageMistake: mss or the display is missing, or there is no such monitor.
        """
        try:
            self._screen = screen = self._grabber()
            monitors = len(screen.monitors) - 1  # the first is all of them together
        except UsageMistake:
            raise
        except Exception as error:  # every system has errors of its own
            raise UsageMistake(
                "There is no screen that can be read here. Run this where the desktop is (on Wayland and without a "
                "display, share the screen from the browser on the live page)."
            ) from error
        if not 1 <= self._monitor <= monitors:
            raise UsageMistake(f"There is no {self.name}; there are {monitors}. Give screen or screen:{monitors}.")

    def read(self) -> Picture | None:
        """The next picture, at most `RATE` a second.

        Raises:
            SourceLost: the display has gone.
        """
        assert self._screen is not None  # opened first
        if (early := self._due - self._clock()) > 0:
            self._wait(early)
        self._due = self._clock() + 1 / RATE
        try:
            shot = self._screen.grab(self._screen.monitors[self._monitor])
        except Exception as error:
            raise SourceLost(f"{self.name} cannot be read any more") from error
        pixels = np.frombuffer(shot.bgra, np.uint8).reshape(shot.height, shot.width, 4)
        return Picture(fitted(pixels, self._fit), self._clock())

    def close(self) -> None:
        """Let the display go."""
        if self._screen is not None:
            self._screen.close()


def _mss() -> Any:
    try:
        import mss
    except ImportError:
        raise UsageMistake("The screen is read with mss, which is not installed. Run pip install mss.") from None
    return mss.mss()
