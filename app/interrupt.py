"""Ctrl-C and SIGTERM as a question that the loop asks between two chunks, so that a film always ends whole."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from app.errors import EXIT_INTERRUPTED, EXIT_TERMINATED

Handler = Callable[[int, FrameType | None], object] | int | None

_SAID = {
    signal.SIGINT: b"\nFinishing the file with what is done; Ctrl-C again stops at once.\n",
    signal.SIGTERM: b"\nAsked to end: finishing the file with what is done.\n",
}


class Interrupt:
    """The first signal asks for an orderly end after the chunk in hand; a second Ctrl-C raises KeyboardInterrupt.

    Attributes:
        code: exit code that goes with the signal that came, None before.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._previous: dict[signal.Signals, Handler] = {}

    @property
    def asked(self) -> bool:
        """Whether the work should end."""
        return self.code is not None

    @property
    def word(self) -> str:
        """What ended the work, for people."""
        return "SIGTERM" if self.code == EXIT_TERMINATED else "Ctrl-C"

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in _SAID}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, at: FrameType | None) -> None:
        if self.code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED
        # Not print: the signal may come in the middle of one, whose buffer is then in use.
        os.write(2, _SAID[signal.Signals(number)])
