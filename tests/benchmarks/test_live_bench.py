"""The benchmark of the live server sees what it is there to see: frames that grow old, and a link that is slow."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

import pytest
from rich.console import Console

from app.cli.main import main
from app.errors import UsageMistake
from app.live.frame_header import FrameHeader, pack_frame
from app.live.message_reader import read_message
from app.script.shot_list import parse_native
from app.server.restore import read_dropped, restored
from benchmarks.live import browser as live_browser
from benchmarks.live.client import LOCAL, Client, Link
from benchmarks.live.live import _ages, _browser_checks, _checks, _reached, _spread, _weighed, table
from benchmarks.robust import flood, flood_crowd, flood_sockets

FPS, CHUNK = 16.0, 12


def film(frames: int, late: float = 0.0) -> list[tuple[float, FrameHeader]]:
    """Frames as they arrive where each chunk is made when its first frame is due, every one `late` more than before."""
    arrived: list[tuple[float, FrameHeader]] = []
    for frame in range(frames):
        begin = frame - (frame + 3) % CHUNK if frame >= CHUNK - 3 else -3
        arrived.append((100 + frame / FPS + frame * late, FrameHeader(frame, frame, frame / FPS, 100 + begin / FPS)))
    return arrived


def test_ages_are_flat_on_a_film_in_time_and_grow_where_a_backlog_does() -> None:
    client = Client(None)
    flat = _ages(client, film(600), CHUNK, FPS)
    assert flat["age_s"]["max"] == pytest.approx(0, abs=1e-6)
    assert flat["growth_s"] == 0
    assert flat["fps"] == pytest.approx(FPS, rel=0.01)
    assert _ages(client, film(600, late=0.001), CHUNK, FPS)["growth_s"] == pytest.approx(0.4, abs=0.01)


def test_a_prompt_is_seen_with_its_first_frame_or_the_next_one_that_came() -> None:
    client = Client(None, frames=film(40)[::3])
    assert _reached(client, 4) == client.frames[2][0]
    assert _reached(client, 100) is None


def test_a_spread_stays_within_what_was_measured() -> None:
    assert _spread([1.0, 2.0, 9.0]) == {"median": 2.0, "p95": 8.0, "max": 9.0}
    assert _spread([5.0]) == {"median": 5.0, "p95": 5.0, "max": 5.0}


def test_growth_is_judged_after_the_last_minute_has_filled_and_tenths_are_told() -> None:
    curve = [(float(second), 1000 if second > 30 else 10 * second) for second in range(100)]
    seen = [(float(second), 500.0 + second) for second in range(0, 100, 5)]
    flat = _weighed(curve, seen, 100.0)
    assert flat["growth"] == 0
    assert (flat["resident_bytes_first_tenth"], flat["resident_bytes_last_tenth"]) == (45, 1000)
    assert (flat["prompt_ms_first_tenth"], flat["prompt_ms_last_tenth"]) == (502.5, 592.5)
    leaking = _weighed([(second, size + 10 * round(second)) for second, size in curve], [], 100.0)
    assert leaking["growth"] > 0.15
    assert leaking["prompt_ms_last_tenth"] is None


def test_a_table_shows_the_parts_that_were_measured_and_checks_them() -> None:
    spread = {"median": 700.0, "p95": 800.0, "max": 900.0}
    found: dict[str, Any] = {
        "preset": "embedded",
        "minutes": 1.0,
        "session": {"fps": 16.0, "chunk_frames": 12},
        "start": dict.fromkeys(("cold_hello_s", "cold_first_frame_s", "warm_hello_s", "warm_first_frame_s"), 0.5),
        "chunk_s": 0.2,
        "prompts": {
            "accepted_ms": spread,
            "applied_ms": spread,
            "seen_ms": spread,
            "parts_ms": {"wait": spread, "pacing": spread},
        },
    }
    found["checks"] = dict(_checks(found, 750.0))
    assert found["checks"] == {"a prompt is seen within a chunk and 150 ms": True}
    assert dict(_checks(found, 500.0)) == {"a prompt is seen within a chunk and 150 ms": False}
    shown = Console(file=io.StringIO(), width=200)
    shown.print(table(found))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "of it until its chunk begins" in text
    assert "viewers" not in text


def flooded(part: str = "", **changes: Any) -> dict[str, Any]:
    """What a flood found; `changes` are of that part, or of what is found at last."""
    looks = {
        "seconds": 60.0,
        "share": 0.97,
        "loop": {"p99_ms": 12.0, "max_ms": 80.0, "answered": 60, "unanswered": 1},
        "memory": 9,
        "disk": 7,
        "lines": 5.0,
    }
    fresh = {"came": 60, "healthz_max_s": 0.2, "page_max_s": 1.1, "unanswered": 0}
    parts: dict[str, Any] = {
        "sockets": looks | {"told": {"opened": 3000}, "fresh": fresh},
        "sessions": looks | {"told": {"asked": 300, "opened": 300}},
        "crowd": looks | {"told": {"error save": 57}},
    }
    found: dict[str, Any] = {
        "sessions": 2,
        "alone": 1.0,
        "memory": {"before": 1, "after": 5, "budget": 8},
        "disk": {"after": 5, "budget": 8},
        "end": {"seconds": 1.5, "code": 143, "halves": []},
    }
    whole = found | {"parts": parts}
    changed = parts[part] if part else whole
    for name, change in changes.items():
        changed[name] = changed[name] | change if isinstance(change, dict) else change
    return whole


def test_a_flood_is_passed_by_a_server_that_keeps_to_everything_and_failed_by_each_thing_it_does_not_keep() -> None:
    checks = dict(flood._checks(flooded()))
    assert all(checks.values())
    harms: list[dict[str, Any]] = [
        *({"part": part, **harm} for part in flood.PARTS for harm in ({"share": 0.94}, {"disk": 9}, {"lines": 100.0})),
        *({"part": part, "loop": {"p99_ms": 51.0}} for part in flood.PARTS),
        {"part": "sessions", "told": {"opened": 299}},
        {"part": "sockets", "fresh": {"page_max_s": 2.5}},
        {"memory": {"after": 9}},
        {"disk": {"after": 9}},
        {"end": {"seconds": 5.1}},
        {"end": {"halves": [".last.mp4.part"]}},
    ]
    failed = [[name for name, passed in flood._checks(flooded(**harm)) if not passed] for harm in harms]
    assert [len(names) for names in failed] == [1] * len(harms)
    assert {names[0] for names in failed} == checks.keys()
    for harm in ({"part": "sockets", "fresh": {"unanswered": 1}}, {"part": "crowd", "loop": {"unanswered": 30}}):
        assert not all(dict(flood._checks(flooded(**harm))).values())
    shown = Console(file=io.StringIO(), width=200)
    shown.print(flood.table(flooded() | {"checks": {"kept": False}}))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("97.0%") == 3
    assert "page_max_s" in text
    assert "NO" in text


def test_few_films_are_asked_for_everything_and_many_are_rewound() -> None:
    every = {flood_crowd._rewinds, flood_crowd._saves, flood_crowd._prompts}
    for films in (1, 2, 3, 6):
        drivers = flood_crowd.drivers_of(films)
        assert len(drivers) == films
        assert {asking for driver in drivers for asking in driver} == every
        assert drivers[0][0] is flood_crowd._rewinds
    assert flood_crowd.drivers_of(6)[3:] == [(flood_crowd._rewinds,)] * 3


def test_half_open_sockets_come_from_many_visitors_and_are_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [flood_sockets.address(number) for number in range(1100)]
    assert max(Counter(addresses).values()) == flood_sockets.OF_ONE
    assert all(address.startswith("127.0.") for address in addresses)
    monkeypatch.setattr(flood_sockets, "_PAUSE", 0.01)
    heard: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4) if len(heard) % 2 else b"")  # some are ended at once
        writer.close()

    async def hold() -> Counter[str]:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            sockets = flood_sockets.HalfOpen(f"http://127.0.0.1:{port}/", 4, 0.2)
            await sockets.hold()
        return sockets.counted

    if not flood_sockets.many_addresses():
        pytest.skip("one loopback address alone")
    counted = asyncio.run(hold())
    assert counted["opened"] > 4
    assert 0 < counted["held at most"] <= 4


def test_sockets_that_the_system_does_not_allow_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flood, "allow_files", lambda count: False)
    assert main(["bench", "flood", "--half_open", "9999"]) == 2
    assert "--only sessions,crowd" in capsys.readouterr().err


def test_what_the_crowd_asks_for_over_http_is_work_and_not_refused() -> None:
    plan = json.loads(flood_crowd.plan_body(50))
    assert len(parse_native(plan["script"], "script.yaml").shots) == 50
    told = restored(read_dropped(flood_crowd.log_body(100)), models=("embedded",))
    assert len(told["shots"]) == 10


def test_the_crowds_drivers_ask_for_what_the_wire_knows() -> None:
    for asked in (flood_crowd._saves, flood_crowd._prompts, flood_crowd._rewinds):
        for _, message in islice(asked(), 200):
            read_message(json.dumps(message))


class Server:
    """A socket that sends frames of 1000 bytes as fast as they are acknowledged, three ahead."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.acked = -1
        self.most_ahead = 0
        self._more = asyncio.Event()

    async def send(self, text: str) -> None:
        told = json.loads(text)
        assert told["type"] == "ack"
        self.acked = told["seq"]
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        yield json.dumps({"type": "hello"})
        for seq in range(self.frames):
            while seq - self.acked > 3:
                self._more.clear()
                await self._more.wait()
            self.most_ahead = max(self.most_ahead, seq - self.acked)
            yield pack_frame(FrameHeader(seq, seq, seq / FPS, 0.0), bytes(968))
        await asyncio.sleep(0.2)


@pytest.mark.parametrize(("link", "least"), [(LOCAL, 0.0), (Link("slow", 0.02, 160_000), 0.5)])
def test_a_slow_link_delays_what_it_carries_and_its_acknowledgements(link: Link, least: float) -> None:
    async def watch() -> tuple[Client, Server]:
        server = Server(10)
        client = Client(server, link)
        await client.listen()
        return client, server

    begun = time.time()
    client, server = asyncio.run(watch())
    assert client.first("hello") is not None
    assert [header.seq for _, header in client.frames] == list(range(10))
    assert server.most_ahead == 3
    assert client.frames[-1][0] - begun >= least  # ten frames of 50 ms each
    assert least or client.frames[-1][0] - begun < 0.5


def test_what_a_server_says_last_is_heard() -> None:
    class Refusing(Server):
        async def __aiter__(self) -> AsyncIterator[Any]:
            yield json.dumps({"type": "error", "code": "full"})
            yield json.dumps({"type": "session.done"})

    async def listen() -> Client:
        client = Client(Refusing(0))
        await client.listen()
        return client

    client = asyncio.run(listen())
    assert client.first("session.done") is not None


def test_a_page_that_opens_late_or_stutters_does_not_pass() -> None:
    page = {"first_drawn_cold_s": 2.0, "first_drawn_warm_s": 0.4, "drawn_fps": 15.9}
    assert all(_browser_checks(page, FPS).values())
    for name, value in (("first_drawn_cold_s", 5.1), ("first_drawn_warm_s", 1.2), ("drawn_fps", 14.0)):
        assert list(_browser_checks(page | {name: value}, FPS).values()).count(False) == 1


def test_the_browser_part_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_browser.shutil, "which", lambda name: None)
    with pytest.raises(UsageMistake, match="apt-get install chromium"):
        live_browser.require()
    monkeypatch.setattr(live_browser.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert live_browser.require() == "/usr/bin/chromium"
    monkeypatch.setattr(live_browser, "find_spec", lambda name: None)
    with pytest.raises(UsageMistake, match="pip install playwright"):
        live_browser.require()
