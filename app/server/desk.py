"""A worker process, the desk, that parses what people send, so that no text of theirs holds up a film.

Reading a script of a megabyte takes most of a second of Python, and a thread would take it from the event loop all the
same: they share one interpreter. What is asked goes over a pipe, a few wait their turn, and all others are told to
come back.
"""

import asyncio
import json
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from app.jobs.process import environment, give_way
from app.server.access import Access
from app.server.bodies import RETRY_SECONDS, Told
from app.server.refusals import Refused, mistake
from weights.catalog import MODELS

Task = Literal["plan", "judge", "request", "restore", "take", "chunks"]
"""The functions of app/server/desk_work.py."""
WAITING = 8
SECONDS = 20.0
"""What one may take; then it is given up, and the process with it."""
BEGIN_SECONDS = 120.0
"""What the process may take until it can read at all: on a busy machine, long, and no question is to blame."""
_COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "app.server.desk_work")


class TooBusy(Refused):
    """So many wait already that nobody else may."""

    status = 503


class Turns:
    """So many at a time, so many that wait, and a sentence for all others.

    Args:
        at_once: who are served together.
        waiting: who may wait.
    """

    def __init__(self, at_once: int, waiting: int = WAITING) -> None:
        self._most, self._inside = at_once + waiting, 0
        self._free = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait for a turn and have it.

        Raises:
            TooBusy: too many wait.
        """
        if self._inside >= self._most:
            raise TooBusy(f"The server reads {self._inside} other requests. Try again in {RETRY_SECONDS} s.")
        self._inside += 1
        try:
            async with self._free:
                yield
        finally:
            self._inside -= 1


class Desk:
    """Reads for one server; its process begins with the first question and ends with the server.

    Args:
        folder: of the sessions whose takes it may look up.
        access: whose tokens open them.
        models: names that may be rendered with.
        seconds: what one question may take.
        waiting: how many may wait.
    """

    def __init__(
        self,
        folder: Path,
        access: Access,
        *,
        models: Sequence[str] = tuple(MODELS),
        seconds: float = SECONDS,
        waiting: int = WAITING,
    ) -> None:
        self.turns = Turns(1, waiting)
        self._setting = (str(folder), access.secret, tuple(models))
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, "desk")
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Desk] | None = None

    async def ask(self, task: Task, **given: Any) -> Told:
        """The answer to a question, a refusal of it included.

        Raises:
            TooBusy: too many wait.
        """
        async with self.turns.turn():
            reading = asyncio.get_running_loop().run_in_executor(self._thread, self._ask, task, given)
            status, body = await asyncio.shield(reading)
        return Told(body, status)

    def close(self) -> None:
        """End its process."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._end is not None:
            self._end()

    def _ask(self, task: Task, given: dict[str, Any]) -> tuple[int, bytes]:
        process = self._process
        if process is None or process.poll() is not None:
            try:
                process = self._begin()
            except (OSError, EOFError, pickle.UnpicklingError):
                self._give_up()
                told = f"The server is too busy to begin to read. Try again in {RETRY_SECONDS} s."
                return TooBusy.status, json.dumps(mistake(told, TooBusy.status)).encode()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(self._seconds, process.kill)
        late.start()
        try:
            pickle.dump((task, given), process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            return pickle.load(process.stdout)  # of our own process
        except (OSError, EOFError, pickle.UnpicklingError):
            self._give_up()
            told = mistake(f"This cannot be read within {self._seconds:g} s. Send something shorter.", 400)
            return 400, json.dumps(told).encode()
        finally:
            late.cancel()

    def _give_up(self) -> None:
        if self._end is not None:
            self._end()
        self._process = None

    def _begin(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            _COMMAND,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the server
        )
        give_way(process.pid)
        self._process = process
        self._end = weakref.finalize(self, _kill, process)
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(BEGIN_SECONDS, process.kill)
        late.start()
        try:
            pickle.dump(self._setting, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            pickle.load(process.stdout)  # that it can read
        finally:
            late.cancel()
        return process


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not written yet
            if pipe is not None:
                pipe.close()
