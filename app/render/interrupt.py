"""Interrupt: Ctrl-C, SIGTERM and SIGHUP as a question that the loop asks between chunks, so that films end whole."""

import os
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from app.errors import EXIT_FAILURE, EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_TERMINATED, shorten

Handler = Callable[[int, FrameType | None], object] | int | None

_SAID = {
    signal.SIGINT: b"\nFinishing the file with what is done; Ctrl-C again stops at once.\n",
    signal.SIGTERM: b"\nAsked to end: finishing the file with what is done.\n",
}
_CODES = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}
OF_VIDEO = "its video"
"""What ends a film whose video breaks off: it cannot be gone on with."""
_WORDS = {EXIT_INTERRUPTED: "Ctrl-C", EXIT_TERMINATED: "SIGTERM", EXIT_HANGUP: "SIGHUP"}
if hasattr(signal, "SIGHUP"):  # a system without it has no terminals that hang up
    _SAID[signal.SIGHUP] = b"\nThe terminal has gone: finishing the file with what is done.\n"
    _CODES[signal.SIGHUP] = EXIT_HANGUP


class Interrupt:
    """The first signal asks for an orderly end after the chunk in hand; a second Ctrl-C raises KeyboardInterrupt.

    A SIGHUP that was ignored before stays ignored, as nohup wants it.

    Attributes:
        code: exit code that goes with the signal that came, None before.
        lost: what happened to the video that the film is made of, as a clause; "" while it is there.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.lost = ""
        self._previous: dict[signal.Signals, Handler] = {}

    @property
    def asked(self) -> bool:
        """Whether the work should end."""
        return self.code is not None

    @property
    def word(self) -> str:
        """What ended the work, for people."""
        if self.lost:
            return f"{OF_VIDEO} ({shorten(self.lost, 120)})"
        return _WORDS[self.code or EXIT_INTERRUPTED]

    def lose(self, clause: str) -> None:
        """End the work because there is no more video to make it of."""
        self.lost = clause
        self.code = self.code or EXIT_FAILURE

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in _SAID if _CODES[n] != EXIT_HANGUP or signal.getsignal(n) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._ask) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, at: FrameType | None) -> None:
        if self.code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = _CODES[signal.Signals(number)]
        with suppress(OSError):  # whoever read it may have gone
            # Not print: the signal may come in the middle of one, whose buffer is then in use.
            os.write(2, _SAID[signal.Signals(number)])
        if self.code == EXIT_HANGUP:
            _turn_away()


def _turn_away() -> None:
    """Let what is said to a terminal or a pipe go nowhere: once the terminal has gone, a line would end the film."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
