"""Cameras, network streams, screens and virtual cameras, with the devices behind their protocols."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.errors import RenderFailure, UsageMistake
from app.media import camera as camera_module
from app.media.camera import CameraSource, fitted, network
from app.media.fit import Fit
from app.media.inputs import is_live, live_source, public_name
from app.media.opencv import import_opencv
from app.media.screen import ScreenSource
from app.media.source import SourceLost
from app.media.virtual_camera import VirtualCamera, open_device
from tests.media.clips import number_of, numbered

FIT = Fit(48, 64)


class FakeCapture:
    """cv2's capture of a camera that makes so many pictures, BGR, and is then unplugged."""

    def __init__(self, pictures: int, *, opened: bool = True) -> None:
        self.left, self.opened, self.released, self.reads = pictures, opened, False, 0

    def isOpened(self) -> bool:
        return self.opened

    def read(self) -> tuple[bool, Any]:
        self.reads += 1
        if not self.left:
            return False, None
        self.left -= 1
        return True, numbered(self.left, 96, 128)[..., ::-1]

    def release(self) -> None:
        self.released = True


def source_of(capture: FakeCapture) -> CameraSource:
    return CameraSource("webcam:0", lambda: capture, FIT, refusal="webcam:0 is busy. Close what uses it.")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "_PAUSE", 0.0)


def test_a_camera_is_read_in_rgb_and_the_models_size_and_freed() -> None:
    capture = FakeCapture(3)
    source = source_of(capture)
    source.open()
    picture = source.read()
    assert picture is not None
    assert picture.pixels.shape == (48, 64, 3)
    assert np.abs(picture.pixels[6, 2].astype(int) - (220, 30, 30)).max() <= 3, "red is red"
    source.close()
    assert capture.released


def test_a_camera_that_is_unplugged_is_told_after_a_few_reads() -> None:
    capture = FakeCapture(2)
    source = source_of(capture)
    source.open()
    source.read()
    with pytest.raises(SourceLost, match="webcam:0 was unplugged"):
        source.read()
    assert capture.reads <= 2 + camera_module._MISSED


@pytest.mark.parametrize("capture", [FakeCapture(0), FakeCapture(5, opened=False)])
def test_a_camera_that_opens_and_sends_nothing_is_refused(capture: FakeCapture) -> None:
    source = source_of(capture)
    with pytest.raises(UsageMistake, match="busy"):
        source.open()
    source.close()
    assert capture.released


def test_a_picture_is_turned_and_fitted() -> None:
    bgr = numbered(9, 48, 64)[..., ::-1]
    assert number_of(fitted(bgr, FIT)) == 9
    turned = fitted(bgr, Fit(64, 48, turn=90))
    assert np.array_equal(turned, np.rot90(numbered(9), -1))
    padded = fitted(bgr, Fit(64, 64, "pad"))
    assert padded[:8].max() == 0 == padded[-8:].max()


def test_a_machine_without_a_camera_says_so() -> None:
    with pytest.raises(UsageMistake, match=r"There is no webcam:97|webcam:97 does not open"):
        live_source("webcam:97", FIT).open()
    with pytest.raises(UsageMistake, match="No camera has 'nosuchcamera'"):
        live_source("webcam:nosuchcamera", FIT)


def test_names_of_sources_are_told_from_files() -> None:
    for text in (
        "webcam:0",
        "webcam",
        "WEBCAM:Logi",
        "screen",
        "screen:2",
        "rtsp://a/b",
        "https://a/b.m3u8",
        "http://a",
    ):
        assert is_live(text), text
    for text in ("in.mp4", "./screen", "screen.mp4", "webcam.mkv", "a/http:/b", "https.mov"):
        assert not is_live(text), text
    for text in ("screen:0", "screen:x", "rtsp:", "http://", "in.mp4"):
        with pytest.raises(UsageMistake, match="names no source"):
            live_source(text, FIT)


def test_passwords_of_an_address_are_told_to_nobody() -> None:
    address = "rtsp://admin:secret@10.0.0.9:554/stream1?token=abc"
    assert public_name(address) == "rtsp://10.0.0.9/stream1"
    assert public_name("webcam:0") == "webcam:0"
    assert "secret" not in live_source(address, FIT).name


def test_an_address_where_nobody_is_is_refused_soon() -> None:
    with pytest.raises(UsageMistake, match="does not answer"):
        network("http://127.0.0.1:9/a.mjpg", "http://127.0.0.1/a.mjpg", FIT).open()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("libGL.so.1: cannot open shared object file: No such file", "opencv-python-headless instead of"),
        ("No module named 'cv2'", "pip install opencv-python"),
    ],
)
def test_a_missing_library_is_told_with_what_brings_it(monkeypatch: pytest.MonkeyPatch, error: str, told: str) -> None:
    usual = builtins.__import__

    def importing(name: str, *arguments: Any) -> Any:
        if name == "cv2":
            raise ImportError(error)
        return usual(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(UsageMistake, match=told):
        import_opencv()


# ------------------------------------------------------------------ the screen


class FakeScreen:
    monitors = ({}, {"left": 0}, {"left": 100})

    def __init__(self) -> None:
        self.closed, self.gone = False, False

    def grab(self, monitor: dict[str, int]) -> Any:
        if self.gone:
            raise RuntimeError("XGetImage failed")
        bgra = np.dstack([numbered(monitor["left"])[..., ::-1], np.zeros((48, 64), np.uint8)])
        return SimpleNamespace(bgra=bgra.tobytes(), height=48, width=64)

    def close(self) -> None:
        self.closed = True


def screen_of(screen: FakeScreen, monitor: int = 1) -> ScreenSource:
    waits: list[float] = []
    return ScreenSource(monitor, FIT, grabber=lambda: screen, clock=lambda: 1.0, wait=waits.append)


def test_a_screen_is_read_until_it_goes() -> None:
    screen = FakeScreen()
    source = screen_of(screen, 2)
    source.open()
    picture = source.read()
    assert picture is not None
    assert number_of(picture.pixels) == 100
    screen.gone = True
    with pytest.raises(SourceLost, match="screen:2 cannot be read"):
        source.read()
    source.close()
    assert screen.closed


def test_a_screen_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageMistake, match="no screen:3; there are 2"):
        screen_of(FakeScreen(), 3).open()

    def no_display() -> Any:
        raise OSError("$DISPLAY not set")

    with pytest.raises(UsageMistake, match="no screen that can be read here"):
        ScreenSource(1, FIT, grabber=no_display).open()


# ------------------------------------------------------------------ the virtual camera


class FakeDevice:
    device = "/dev/video9"

    def __init__(self, send: Callable[[int], None] = lambda grey: None) -> None:
        self.sent: list[int] = []
        self.closed, self._send = False, send

    def send(self, frame: Any) -> None:
        self._send(int(frame[0, 0, 0]))
        self.sent.append(int(frame[0, 0, 0]))

    def close(self) -> None:
        self.closed = True


def test_every_frame_is_sent_once_in_order_and_no_thread_is_left() -> None:
    device = FakeDevice()
    with VirtualCamera(device, Fraction(1000)) as camera:
        for chunk in range(5):
            greys = np.arange(chunk * 12, chunk * 12 + 12, dtype=np.uint8)
            camera.show(np.broadcast_to(greys[:, None, None, None], (12, 4, 6, 3)))
            assert len(camera._waiting) <= 24
    assert device.sent == [*range(60)]
    assert device.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "virtual camera"]


def test_a_virtual_camera_that_goes_is_told_to_whoever_shows() -> None:
    def send(grey: int) -> None:
        raise RuntimeError("device has gone")

    device = FakeDevice(send)
    with pytest.raises(RenderFailure, match="has gone"), VirtualCamera(device, Fraction(1000)) as camera:
        [camera.show(np.zeros((12, 4, 6, 3), np.uint8)) for _ in range(10)]
    assert device.closed


def test_a_missing_pyvirtualcam_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyvirtualcam", None)
    with pytest.raises(UsageMistake, match="pip install pyvirtualcam"):
        open_device(64, 48, 16.0)
