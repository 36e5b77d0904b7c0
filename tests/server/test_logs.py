"""The server's log: what a line says, that it quotes nobody, and that a kind of them has few."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.live.messages import Do
from app.server.logs import LINES, SECONDS, FewWords, log_config
from tests.live_tiny import Stage, Watcher, say


@pytest.fixture(params=[False, True], ids=["key=value", "json"])
def lines(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Reads what was logged since: of every line its fields, and what stands below it."""
    loggers = [logging.getLogger(name) for name in log_config()["loggers"]]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    logging.config.dictConfig(log_config(as_json=request.param))

    def read() -> list[dict[str, Any]]:
        told = capfd.readouterr().err.splitlines()
        if request.param:
            return [json.loads(line) for line in told]
        found: list[dict[str, Any]] = []
        for line in told:
            if line.startswith("  "):
                found[-1]["trace"] = found[-1].get("trace", "") + line[2:] + "\n"
                continue
            fields: dict[str, Any] = {}
            while line:
                name, _, line = line.partition("=")
                if line.startswith('"'):
                    fields[name], end = json.JSONDecoder().raw_decode(line)
                    line = line[end + 1 :]
                else:
                    fields[name], _, line = line.partition(" ")
            found.append(fields)
        return found

    yield read
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def test_a_line_is_one_line_whatever_it_says(lines: Any) -> None:
    log = logging.getLogger("app.live.session")
    log.warning('it "has" = failed\nat %s', "once", extra={"session": "film1", "chunk": 7, "secret": "x"})
    logging.getLogger("uvicorn.error").warning("plain")
    log.info("not worth a line")
    first, second = lines()
    assert list(first) == ["at", "level", "from", "session", "chunk", "message"]
    assert first["message"] == 'it "has" = failed\nat once'
    assert (first["level"], first["from"], str(first["chunk"])) == ("warning", "app.live.session", "7")
    assert first["at"].endswith("Z")
    assert (second["from"], second["message"]) == ("uvicorn.error", "plain")


def test_a_film_that_fails_is_named_with_its_chunk_and_what_was_typed_is_not(lines: Any, tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        session, watcher = stage.open(), Watcher(stage.clock)
        session.attach(watcher)
        stage.play(1)
        for name, prompt in (("a", "my secret wish"), ("b", "a secret xyzzy")):
            session.submit(say(name, prompt), watcher)
            stage.play(1)
        session.submit(Do(action="audition"), watcher)
        assert lines() == [], "what a person is told of is no line"
        chunk = session.film.chunk
        stage.model.broken = RuntimeError("a kernel failed")
        stage.play(1)
    (line,) = lines()
    assert (line["message"], line["error"], line["session"]) == ("a film has failed", "RuntimeError", session.id)
    assert str(line["chunk"]) == str(chunk)
    assert "a kernel failed" in line["trace"]
    assert "secret" not in str(line)


def line(message: str, *given: object, error: bool = False) -> logging.LogRecord:
    try:
        raise OSError
    except OSError as raised:
        what: Any = (OSError, raised, None) if error else None
    return logging.LogRecord("asyncio", logging.WARNING, "x.py", 1, message, given, what)


def test_lines_of_a_kind_are_counted_and_the_count_is_told() -> None:
    now = [0.0]
    few = FewWords(lambda: now[0])
    ended = line("Exception in ASGI application")
    ended.exc_info = (asyncio.CancelledError, asyncio.CancelledError(), None)
    assert not few.filter(ended), "Ctrl-C while somebody reads is no mistake"
    passed = [record.getMessage() for number in range(1000) if few.filter(record := line("no %s", number))]
    assert [said.split(" (")[0] for said in passed] == [f"no {number}" for number in range(LINES)]
    assert passed[-1].endswith("only counted)")
    assert few.filter(line("another"))
    assert few.filter(line("no %s", 5, error=True)), "an error of another type is another kind"
    now[0] = SECONDS
    record = line("no %s", "more")
    assert few.filter(record)
    assert record.getMessage() == f"no more ({1000 - LINES} more of these since the last)"
    for number in range(2000):
        few.filter(line(f"kind {number}"))
    assert len(few._kinds) < 300
