"""Figures for Prometheus: what is measured where, under which names, and for one server at a time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app.live.frame_header import JPEG
from app.live.messages import Applied, Done
from app.live.player import LiveFrame
from app.server.metrics import ServerMetrics
from app.server.routes import make_app
from app.server.viewers import SocketViewer
from tests.live_doubles import SECRET, PaintedEngine, until
from tests.live_tiny import Stage, Watcher

SOCKET = "ws://localhost/v1/realtime/video"
HISTOGRAMS = ("prompt_to_picture_seconds", "chunk_time_seconds", "frame_age_seconds", "loop_pause_seconds")


def figures(told: str) -> dict[str, float]:
    """Every sample without a label."""
    samples = [sample for family in text_string_to_metric_families(told) for sample in family.samples]
    return {sample.name.removeprefix("rivulet_"): sample.value for sample in samples if not sample.labels}


def client_of(engine: Any) -> TestClient:
    return TestClient(make_app(engine, secret=SECRET, page=False), base_url="http://localhost")


def test_two_servers_in_a_process_count_for_themselves(tmp_path: Path) -> None:
    one, other = (client_of(PaintedEngine(folder=tmp_path / name)) for name in "ab")
    with one, other, one.websocket_connect(SOCKET) as socket:
        assert [socket.receive_json()["type"] for _ in range(2)] == ["hello", "video.start"]
        socket.send_text("{")
        socket.receive_json()
        busy, idle = (figures(client.get("/metrics").text) for client in (one, other))
    assert (busy["sockets"], busy["messages_refused_total"], busy["visits_total"]) == (1, 1, 0)
    assert (idle["sockets"], idle["messages_refused_total"]) == (0, 0)
    with one:
        assert figures(one.get("/metrics").text)["visits_total"] == 1


def test_names_are_those_they_were_and_none_has_a_label_of_ours(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage, client_of(stage.engine) as client:
        told = client.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE rivulet_(\w+) (\w+)$", told, re.MULTILINE))
    counters = {"frames_sent_total", "messages_refused_total", "visits_total"}
    assert {name for name, kind in kinds.items() if kind == "counter"} == counters
    assert {name for name, kind in kinds.items() if kind == "histogram"} == set(HISTOGRAMS)
    assert {name for name, kind in kinds.items() if kind == "gauge" and not name.endswith("_created")} == {
        *("sockets", "waiting", "rooms", "loop_pause_p99_seconds", "loop_pause_max_seconds", "sessions", "viewers"),
        *("chunks", "frames_encoded", "underruns", "chunk_seconds", "saves_pending", "kept_bytes", "disk_bytes"),
        *("disk_limit_bytes", "memory_bytes"),
    }
    assert set(re.findall(r"(\w+)=\"", told)) == {"le"}


def test_a_prompt_and_the_age_of_a_frame_are_measured_when_they_are_sent() -> None:
    class Link:
        async def send_text(self, data: str) -> None: ...
        async def send_bytes(self, data: bytes) -> None: ...

    async def work() -> None:
        viewer = SocketViewer(figures=measured)
        viewer.offer(LiveFrame(b"jpeg", JPEG, True, 0, 0, 0, 0.0, made=time.time() - 0.15))
        sending = asyncio.create_task(viewer.send_to(Link()))
        while not figures(measured.exposition().decode())["frames_sent_total"]:
            await asyncio.sleep(0.01)
        viewer.tell(Applied(id="p", chunk=2, frame=24, t=1.5, ms=700.0))
        viewer.tell(Done(reason="over"))
        await sending

    measured = ServerMetrics()
    asyncio.run(asyncio.wait_for(work(), 10))
    seen = figures(measured.exposition().decode())
    assert (seen["prompt_to_picture_seconds_count"], seen["prompt_to_picture_seconds_sum"]) == (1, 0.7)
    assert seen["frame_age_seconds_count"] == 1
    assert 0.15 <= seen["frame_age_seconds_sum"] < 5


def test_every_chunk_is_measured_with_what_it_took(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage, client_of(stage.engine) as client:
        session = stage.open()
        session.attach(Watcher(stage.clock))
        stage.play(5)
        seen = figures(client.get("/metrics").text)
    assert seen["chunks"] == seen["chunk_time_seconds_count"] > 3
    assert seen["chunk_time_seconds_sum"] == pytest.approx(0.25 * seen["chunks"], rel=0.1)


def test_pauses_of_the_loop_are_measured_while_somebody_is_there(tmp_path: Path) -> None:
    with client_of(PaintedEngine(folder=tmp_path)) as client, client.websocket_connect(SOCKET) as socket:
        assert json.loads(socket.receive_text())["type"] == "hello"
        until(lambda: figures(client.get("/metrics").text)["loop_pause_seconds_count"] > 2)
