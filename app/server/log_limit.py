"""The server's log, a few lines of a kind a minute: who can make the server complain must not fill the disk with it."""

import asyncio
import copy
import logging
import time
from collections.abc import Callable
from typing import Any

LINES, SECONDS = 5, 60.0
"""Lines of a kind that are written in so many seconds; the others are counted."""
KINDS = 256
"""Kinds remembered; the oldest are forgotten first."""


class FewWords(logging.Filter):
    """Lets the first lines of a kind pass, and tells of the others with the first line of the next minute.

    A kind is a logger with a message before anything is put into it, and the type of the error it tells of.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        error = record.exc_info[0] if record.exc_info else None
        if error is asyncio.CancelledError:  # the server ends while somebody still reads
            return False
        kind = (record.name, str(record.msg)[:200], error)
        now = self._clock()
        since, seen = self._kinds.pop(kind, (now, 0))
        if now - since >= SECONDS:
            if seen > LINES:
                record.msg, record.args = f"{record.getMessage()} ({seen - LINES} more of these since the last)", ()
            since, seen = now, 0
        self._kinds[kind] = (since, seen + 1)
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        if seen == LINES - 1:
            record.msg, record.args = f"{record.getMessage()} (more of these within a minute are only counted)", ()
        return seen < LINES


def log_config() -> dict[str, Any]:
    """Uvicorn's logging, and asyncio's, with few words."""
    from uvicorn.config import LOGGING_CONFIG

    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"few words": {"()": FewWords}}
    config["handlers"]["default"]["filters"] = ["few words"]
    config["loggers"]["asyncio"] = {"handlers": ["default"], "level": "WARNING", "propagate": False}
    return config
