"""Log lines: one format with session and chunk, as key=value or JSON, and a few lines of a kind a minute.

Who can make the server complain must not fill the disk with it. No line quotes what somebody typed, nor an address with
a token in it; what a line is about comes as `extra={"session": ..., "chunk": ...}` of the call that writes it.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

LINES, SECONDS = 5, 60.0
"""Lines of a kind that are written in so many seconds; the others are counted."""
KINDS = 256
"""Kinds remembered; the oldest are forgotten first."""
ABOUT = ("session", "chunk", "job")
"""What a line may be about."""
LOGGERS = ("app", "asyncio", "uvicorn")


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


class KeyValue(logging.Formatter):
    """`at=... level=warning from=app.live.session session=... chunk=7 message="..."`; a traceback stands below it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        told, trace = _fields(record)
        line = " ".join(f"{name}={_quoted(value)}" for name, value in told.items())
        return "\n  ".join([line, *trace.splitlines()])


class JsonLine(logging.Formatter):
    """The same as one JSON object a line, the traceback in `trace`."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        told, trace = _fields(record)
        return json.dumps(told | ({"trace": trace} if trace else {}), ensure_ascii=False)


class StandardError(logging.Handler):
    """Writes to what standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # it is closed, and there is nobody to tell
            self.handleError(record)


def log_config(*, as_json: bool = False) -> dict[str, Any]:
    """The configuration of our log, uvicorn's and asyncio's, for logging.config.dictConfig."""
    handled = {"handlers": ["default"], "level": "WARNING"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"few words": {"()": FewWords}},
        "formatters": {"lines": {"()": JsonLine if as_json else KeyValue}},
        "handlers": {"default": {"()": StandardError, "formatter": "lines", "filters": ["few words"]}},
        "loggers": dict.fromkeys(LOGGERS, handled),
    }


def _fields(record: logging.LogRecord) -> tuple[dict[str, Any], str]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "from": record.name}
    told |= {name: value for name in ABOUT if (value := getattr(record, name, None)) is not None}
    told["message"] = record.getMessage()
    trace = ""
    if record.exc_info and record.exc_info[0] is not None:
        told["error"] = record.exc_info[0].__name__
        trace = logging.Formatter().formatException(record.exc_info)
    return told, trace


def _quoted(value: object) -> str:
    """As it is where that is one word; else as a JSON text, so that a line stays one line."""
    text = str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)
