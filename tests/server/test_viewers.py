"""One viewer's end: what is replaced, what is kept in order, and who is given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from pydantic import BaseModel

from app.live.frame_header import unpack_frame
from app.live.messages import Accepted, Done, Metrics, QueueItem, QueueState
from app.live.player import LiveFrame
from app.live.source_messages import PictureTaken
from app.server import viewers
from app.server.viewers import Gone, PictureViewer, SocketViewer
from tests.live_doubles import live_frame


class Link:
    """Keeps what it is sent; a stuck one never returns."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.sent: list[Any] = []
        self.stuck = stuck

    async def _take(self, data: Any) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.sent.append(data)

    async def send_text(self, data: str) -> None:
        await self._take(json.loads(data))

    async def send_bytes(self, data: bytes) -> None:
        await self._take(unpack_frame(data)[0])


def frame(seq: int, epoch: int = 0, codec: int = 0) -> LiveFrame:
    return live_frame(b"jpeg", seq, codec=codec, epoch=epoch)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def test_metrics_are_replaced_and_everything_else_arrives_in_order() -> None:
    async def work() -> None:
        viewer, link = SocketViewer(), Link()
        for number in range(3):
            viewer.tell(Metrics(fps=number))
            viewer.tell(Accepted(id=str(number), chunk=number, at=0))
        viewer.offer(frame(0))
        viewer.offer(frame(1))
        viewer.tell(Done(reason="over"))
        await viewer.send_to(link)
        assert [message.get("id", message["type"]) for message in link.sent] == ["0", "1", "2", "session.done"]

        other, link = SocketViewer(), Link()
        other.tell(Metrics(fps=1))
        other.tell(Metrics(fps=2))
        other.offer(frame(0))
        other.offer(frame(1))
        sending = asyncio.create_task(other.send_to(link))
        while len(link.sent) < 2:
            await asyncio.sleep(0.01)
        assert (link.sent[0]["fps"], link.sent[0]["dropped"], link.sent[1].seq) == (2, 1, 1)
        sending.cancel()

    run(work())


def test_what_tells_the_whole_is_said_once_a_while_and_made_into_text_once_for_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[BaseModel] = []

    class Counted(QueueState):
        def model_dump_json(self, **options: Any) -> str:
            made.append(self)
            return super().model_dump_json(**options)

    monkeypatch.setattr(viewers, "_WHOLE", (Counted,))

    async def work() -> None:
        both = [(SocketViewer(), Link()) for _ in range(2)]
        sending = [asyncio.create_task(viewer.send_to(link)) for viewer, link in both]
        for number in range(20):
            said = Counted(items=[QueueItem(id="p", prompt=f"{number}")])
            for viewer, _ in both:
                viewer.tell(said)
            await asyncio.sleep(0)
        for viewer, link in both:
            while not link.sent or link.sent[-1]["items"][0]["prompt"] != "19":
                await asyncio.sleep(0.01)
            assert len(link.sent) < 20
            viewer.tell(Counted(items=[]))
            viewer.tell(Done(reason="over"))
        await asyncio.gather(*sending)
        for _, link in both:
            assert [message["type"] for message in link.sent[-2:]] == ["session.queue", "session.done"]
            assert not link.sent[-2]["items"], "the last is told before the end"
        assert len({id(event) for event in made}) == len(made), "a message was made into text twice"

    run(work())


def test_of_each_source_the_newest_receipt_of_a_picture_is_told() -> None:
    async def work() -> None:
        viewer, link = SocketViewer(), Link()
        for seq in range(1, 4):
            viewer.tell(PictureTaken(source=7, seq=seq))  # a beginning, beside a camera
            viewer.tell(PictureTaken(source=9, seq=10 * seq))
        viewer.tell(Done(reason="over"))
        await viewer.send_to(link)
        assert [(message["source"], message["seq"]) for message in link.sent[:-1]] == [(7, 3), (9, 30)]

    run(work())


def test_a_frame_from_before_a_reset_never_replaces_one_from_after() -> None:
    async def work() -> None:
        viewer, link = SocketViewer(), Link()
        viewer.offer(frame(9, epoch=0))
        viewer.offer(frame(0, epoch=0x10000 - 1))  # 65535 is before 0: it wraps
        viewer.offer(frame(10, epoch=0))
        viewer.offer(frame(5, epoch=0xFFFF))
        sending = asyncio.create_task(viewer.send_to(link))
        while not link.sent:
            await asyncio.sleep(0.01)
        assert link.sent[0].seq == 10
        sending.cancel()

    run(work())


def test_a_link_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "SEND_SECONDS", 0.05)
    monkeypatch.setattr(viewers, "BACKLOG", 5)

    async def work() -> None:
        stuck = SocketViewer()
        stuck.offer(frame(0))
        with pytest.raises(Gone):
            await stuck.send_to(Link(stuck=True))
        full = SocketViewer()
        for number in range(6):
            full.tell(Accepted(id=str(number), chunk=0, at=0))
        with pytest.raises(Gone):
            await full.send_to(Link())

    run(work())


def test_an_acknowledgement_counts_for_all_before_also_when_the_number_wraps() -> None:
    async def work() -> None:
        viewer, link = SocketViewer(), Link()
        sending = asyncio.create_task(viewer.send_to(link))
        for number, seq in enumerate((2**32 - 2, 2**32 - 1, 0), 1):
            viewer.offer(frame(seq))
            while len(link.sent) < number:
                await asyncio.sleep(0.01)
        assert viewer.credit == 0
        viewer.acknowledge(2**32 - 1)
        assert viewer.credit == 2
        viewer.acknowledge(0)
        assert viewer.credit == 3
        sending.cancel()

    run(work())


def test_a_reader_of_pictures_that_is_stuck_does_not_count_as_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        reader = PictureViewer()
        reader.offer(frame(0, codec=1))  # no JPEG
        reader.offer(frame(1))
        assert await reader.next() == b"jpeg"
        assert reader.credit > 0
        monkeypatch.setattr(viewers, "STUCK_SECONDS", 0.0)
        assert reader.credit == 0
        reader.tell(Done(reason="over"))
        assert await reader.next() is None

    run(work())
