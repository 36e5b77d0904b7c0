"""The reader thread: files in full, live sources at their newest, and nothing left behind when it is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from app.errors import UsageMistake
from app.media import reader as reader_module
from app.media.reader import FileFeed, LiveFeed, Reader
from app.media.source import Picture, SourceLost


class Clock:
    """Seconds that pass only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeCamera:
    """A camera that sends what it is told to; `read` waits until then, as a real one does."""

    def __init__(self, *, before_open: Callable[[], None] = lambda: None) -> None:
        self.name = "webcam:7"
        self.opened = self.closed = False
        self._before_open = before_open
        self._sent: list[int | Exception | None] = []
        self._more = threading.Semaphore(0)
        self._taken = threading.Semaphore(0)

    def open(self) -> None:
        self._before_open()
        self.opened = True

    def read(self) -> Picture | None:
        self._taken.release()
        self._more.acquire()
        value = self._sent.pop(0)
        if isinstance(value, Exception):
            raise value
        return None if value is None else Picture(np.full((4, 6, 3), value % 256, np.uint8), value / 10)

    def close(self) -> None:
        self.closed = True

    def send(self, value: int | Exception | None) -> None:
        """Send a picture of this grey, an end or an error, and wait until the reader has it."""
        self._taken.acquire()
        self._sent.append(value)
        self._more.release()
        if isinstance(value, int):
            self._taken.acquire()
            self._taken.release()


@pytest.fixture
def camera() -> Iterator[FakeCamera]:
    before = set(threading.enumerate())  # by name and not by number: an earlier test's thread may end during this one
    camera = FakeCamera()
    yield camera
    if camera.opened and not camera.closed:
        camera.send(None)  # a read that waits ends with the next picture
    for thread in threading.enumerate():
        if thread.name.startswith("reader of"):
            thread.join(5)
    assert set(threading.enumerate()) <= before, "a thread was left"
    assert camera.closed or not camera.opened, "the device was left open"


def greys(pixels: np.ndarray) -> list[int]:
    return [int(value) for value in pixels[:, 0, 0, 0]]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "OPEN_SECONDS", 0.15)
    monkeypatch.setattr(reader_module, "_JOIN_SECONDS", 0.05)


def live(camera: FakeCamera, clock: Clock, *, room: int = 96) -> Reader:
    return Reader(camera, room=room, newest=True, clock=clock)


def feed_of(reader: Reader, clock: Clock, *, rate: int = 10) -> LiveFeed:
    def wait(seconds: float) -> None:
        clock.now += seconds

    return LiveFeed(reader, Fraction(rate), clock=clock, wait=wait)


# ------------------------------------------------------------------ files


class Tape:
    """So many pictures, each of its own grey, and then an error if there is one."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.name, self.reads, self.closed = "a.mp4", 0, False
        self._count, self._error = count, error

    def open(self) -> None: ...

    def read(self) -> Picture | None:
        if self.reads == self._count:
            if self._error is not None:
                raise self._error
            return None
        self.reads += 1
        return Picture(np.full((4, 6, 3), self.reads, np.uint8), self.reads / 10)

    def close(self) -> None:
        self.closed = True


def test_a_file_is_taken_in_full_and_its_last_picture_held() -> None:
    tape = Tape(10)
    with Reader(tape, room=3, newest=False) as reader:
        feed = FileFeed(reader)
        assert greys(feed.take(4)) == [1, 2, 3, 4]
        assert greys(feed.take(8)) == [5, 6, 7, 8, 9, 10, 10, 10]
    assert tape.closed


def test_a_file_is_read_ahead_only_so_far_and_left_at_once() -> None:
    tape = Tape(10_000)
    with Reader(tape, room=5, newest=False) as reader:
        FileFeed(reader).take(2)
        assert tape.reads <= 2 + 5 + 1
    assert tape.closed
    assert tape.reads <= 2 + 5 + 1
    assert not [thread for thread in threading.enumerate() if thread.name == "reader of a.mp4"]


def test_what_came_before_the_damage_is_taken_first() -> None:
    with Reader(Tape(3, SourceLost("a.mp4 is damaged from 1.00 s on")), room=9, newest=False) as reader:
        feed = FileFeed(reader)
        assert greys(feed.take(3)) == [1, 2, 3]
        with pytest.raises(SourceLost, match=r"damaged from 1\.00 s"):
            feed.take(1)


def test_a_mistake_in_opening_is_told_where_it_is_opened(camera: FakeCamera) -> None:
    def refuse() -> None:
        raise UsageMistake("webcam:7 is busy. Close what uses it.")

    camera._before_open = refuse
    with pytest.raises(UsageMistake, match="busy"), live(camera, Clock()):
        pass
    assert camera.closed


def test_a_source_that_does_not_answer_is_given_up_and_its_device_freed_later() -> None:
    gate = threading.Event()
    stuck = FakeCamera(before_open=lambda: [gate.wait(5), None][1])
    with pytest.raises(UsageMistake, match="has not answered"), live(stuck, Clock()):
        pass
    assert not stuck.closed
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("reader of"):
            thread.join(5)
    assert stuck.closed, "it opened in the end, and nobody wanted it any more"


# ------------------------------------------------------------------ live sources


def test_a_camera_twice_as_fast_shows_its_newest_and_nothing_grows(camera: FakeCamera) -> None:
    clock = Clock()
    with live(camera, clock, room=12) as reader:
        feed, number = feed_of(reader, clock), 0

        def run(seconds: float) -> None:
            nonlocal number
            for _ in range(round(seconds * 20)):  # the film takes 10 a second
                clock.now += 0.05
                number += 1
                camera.send(number)

        feed._wait = run
        for _ in range(30):
            shown = greys(feed.take(4))
            assert shown[-1] == number % 256, "the newest picture is the last of the chunk"
            assert [after - before for before, after in pairwise(shown)] == [2, 2, 2]
            assert len(reader.newest()) <= 12
        assert feed.skipped < 1e-6


def test_a_stall_of_three_seconds_is_over_with_the_next_chunk_and_brings_no_burst(camera: FakeCamera) -> None:
    clock = Clock()
    with live(camera, clock) as reader:
        reader_module.OPEN_SECONDS = 10.0
        feed, number = feed_of(reader, clock), 0

        def run(seconds: float) -> None:
            nonlocal number
            for _ in range(round(seconds * 10)):
                clock.now += 0.1
                number += 1
                camera.send(number)

        feed._wait = run
        assert greys(feed.take(4)) == [1, 2, 3, 4]

        def still(seconds: float) -> None:
            clock.now += seconds

        feed._wait = still  # the camera sends nothing for three seconds
        for _ in range(7):
            shown = greys(feed.take(4))
            assert shown == [4] * 4
        feed._wait = run
        assert greys(feed.take(4)) == [5, 6, 7, 8], "and then goes on where it is, in its own time"
        clock.now += 3.0  # the film itself stands still for three seconds, in which the camera went on
        for _ in range(30):
            number += 1
            camera.send(number)
        shown = greys(feed.take(4))
        assert shown[-1] == number
        assert feed.skipped == pytest.approx(2.6)
        before = number
        assert greys(feed.take(4)) == [before + 1, before + 2, before + 3, before + 4]


def test_a_camera_that_falls_silent_is_lost_after_ten_seconds(camera: FakeCamera) -> None:
    clock = Clock()
    with live(camera, clock) as reader:
        feed = feed_of(reader, clock)
        camera.send(1)
        clock.now += 0.05
        assert greys(feed.take(1)) == [1]
        clock.now += 0.2
        with pytest.raises(SourceLost, match="has sent nothing for"):
            feed.take(1)


@pytest.mark.parametrize("end", [None, SourceLost("webcam:7 was unplugged")])
def test_a_camera_that_is_unplugged_is_lost_at_once(camera: FakeCamera, end: SourceLost | None) -> None:
    clock = Clock()
    with live(camera, clock) as reader:
        feed = feed_of(reader, clock)
        camera.send(1)
        feed.take(1)
        camera.send(end)
        reader._thread.join(5)
        with pytest.raises(SourceLost, match="unplugged" if end else "has ended"):
            feed.take(1)


def test_a_file_that_is_skipped_through_for_long_is_waited_for() -> None:
    class Slow(Tape):
        decoded = 0

        def read(self) -> Picture | None:
            while self.decoded < 8:  # pictures that nobody wants come first: twice as long as one waits
                time.sleep(0.04)
                self.decoded += 1
            return super().read()

    slow = Slow(3)
    with Reader(slow, room=5, newest=False, progress=lambda: slow.decoded) as reader:
        assert greys(FileFeed(reader).take(3)) == [1, 2, 3]


def test_a_file_that_stops_to_answer_is_given_up() -> None:
    gate = threading.Event()

    class Stuck(Tape):
        def read(self) -> Picture | None:
            gate.wait(5)
            return super().read()

    with Reader(Stuck(3), room=5, newest=False) as reader, pytest.raises(SourceLost, match="has sent nothing"):
        FileFeed(reader).take(1)
    gate.set()
