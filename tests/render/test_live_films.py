"""Films of what a camera shows now: made, ended, unplugged, and never mixed up with films of files."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from app.config.settings import given_by_flags, resolve
from app.errors import RenderFailure, UsageMistake
from app.media.fit import Fit
from app.media.source import Picture, SourceLost
from app.record import sidecar
from app.record.video import VideoRecord, VideoRequest
from app.render import from_video
from app.render.on_air import show
from app.render.replay import replay
from tests.media.clips import number_of, numbered
from tests.media.test_cameras import FakeDevice
from tests.media.test_video import decode
from tests.render.test_from_video import film_request, run
from tests.render.video_doubles import EchoOpener

FAST = Fraction(200)
"""A chunk lasts 60 ms."""


class FakeCamera:
    """Shows numbered pictures, one every 2 ms, until it is unplugged."""

    def __init__(self, pictures: int = 10**6, *, refusal: str = "") -> None:
        self.name, self.pictures, self.refusal = "webcam:0", pictures, refusal
        self.sent, self.opened, self.closed = 0, False, False

    def open(self) -> None:
        if self.refusal:
            raise UsageMistake(self.refusal)
        self.opened = True

    def read(self) -> Picture | None:
        time.sleep(0.002)
        if self.sent == self.pictures:
            raise SourceLost("webcam:0 was unplugged, or its connection broke off")
        self.sent += 1
        return Picture(numbered(self.sent % 256), self.sent / 500)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> FakeCamera:
    camera = FakeCamera()

    def live_source(text: str, fit: Fit) -> FakeCamera:
        assert (text, fit.height, fit.width) == ("webcam:0", 48, 64)
        return camera

    monkeypatch.setattr(from_video, "live_source", live_source)
    return camera


def test_a_camera_is_filmed_for_as_long_as_asked_and_not_replayed(camera: FakeCamera, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    code, _ = run(replace(film_request("webcam:0", output=output, length="40f"), fps=FAST))
    assert code == 0
    shown = [number_of(picture) for picture in decode(output)]
    assert len(shown) == 40
    assert sorted(shown) == shown, "in order"
    assert camera.closed
    record = sidecar.read(tmp_path / "out.json")
    assert record.config.video is not None
    assert (record.config.video.input, record.config.video.sha256, record.film.fps) == ("webcam:0", "", 200)
    with pytest.raises(UsageMistake, match="shows other pictures now"):
        replay(output, None, check=False, overwrite=False, console=Console(file=io.StringIO()))


def test_an_unplugged_camera_leaves_the_film_made_so_far(camera: FakeCamera, tmp_path: Path) -> None:
    camera.pictures = 150
    code, printed = run(replace(film_request("webcam:0", output=tmp_path / "out.mp4"), fps=FAST))
    assert code == 1
    assert "webcam:0 was unplugged" in printed
    shown = decode(tmp_path / "out.mp4")
    assert len(shown) >= 9
    assert sidecar.read(tmp_path / "out.json").status.startswith("ended early by its video")
    assert not list(tmp_path.glob("*.part*"))
    assert camera.closed


def test_a_camera_that_does_not_open_leaves_nothing(camera: FakeCamera, tmp_path: Path) -> None:
    camera.refusal = "webcam:0 is busy. Close what uses it."
    with pytest.raises(UsageMistake, match="is busy"):
        run(replace(film_request("webcam:0", output=tmp_path / "out.mp4"), fps=FAST))
    assert list(tmp_path.iterdir()) == []
    camera.refusal, camera.pictures = "", 0
    with pytest.raises(RenderFailure, match="unplugged"):
        run(replace(film_request("webcam:0", output=tmp_path / "out.mp4"), fps=FAST))
    assert list(tmp_path.iterdir()) == []


def test_what_a_live_film_cannot_do_is_refused(camera: FakeCamera, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    with pytest.raises(UsageMistake, match="cannot go on"):
        run(film_request("webcam:0", output=output, resume=True))
    with pytest.raises(UsageMistake, match="Give --duration"):
        run(film_request("webcam:0", "a red ball", "a blue star", output=output))
    request = film_request("webcam:0", output=output)
    assert request.video is not None
    with pytest.raises(UsageMistake, match="side_by_side"):
        run(replace(request, video=replace(request.video, side_by_side=tmp_path / "b.mp4")))
    assert not camera.opened


def test_a_latency_is_held_by_fewer_steps_which_is_said_and_written_down(camera: FakeCamera, tmp_path: Path) -> None:
    steps = list[int | None]()

    def work(index: int) -> None:
        steps.append(opener.echoes[-1].steps)
        time.sleep(0.2 if steps[-1] == 3 else 0.0)  # three passes at a strength of 0.7 take too long

    opener = EchoOpener(work)
    request = film_request("webcam:0", output=tmp_path / "out.mp4", length="60f")
    assert request.video is not None
    request = replace(request, fps=FAST, video=replace(request.video, latency=0.15))
    code, printed = run(request, opener)
    assert code == 0
    assert steps[:2] == [3, 3], "one late chunk may be chance"
    assert max(step or 9 for step in steps[2:4]) < 3
    assert "Latency: " in printed
    said = [chunk.said for chunk in sidecar.read(tmp_path / "out.json").chunks]
    assert "of 3 steps" in " ".join(said)
    assert "" in said, "only what is news"
    with pytest.raises(
        UsageMistake, match=r"chunk \(12\) take 0.06 s to come at 200 a second. Add num_frame_per_block=1"
    ):
        run(replace(request, output=tmp_path / "b.mp4", video=replace(request.video, latency=0.05)))
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("400ms", 0.4), ("0.4s", 0.4), (" 0.4 ", 0.4), ("2", 2.0), ("50 ms", 0.05)]
)
def test_a_latency_is_read(text: str, seconds: float) -> None:
    settings = resolve([given_by_flags({"input": "webcam:0", "latency": text})]).settings
    assert from_video.video_request(settings).latency == pytest.approx(seconds)


def test_a_latency_that_cannot_be_is_refused() -> None:
    for text in ("", "soon", "0", "40ms", "31s", "1e3", "-1", "4" * 300, "0.4m", "nan"):
        with pytest.raises(UsageMistake, match="Give one like 400ms"):
            given_by_flags({"latency": text})
    settings = resolve([given_by_flags({"input": "in.mp4", "latency": "400ms"})]).settings
    with pytest.raises(UsageMistake, match="Leave it out"):
        from_video.video_request(settings)


def test_a_record_tells_no_password() -> None:
    record = VideoRecord.of(VideoRequest("rtsp://admin:secret@10.0.0.9/stream1?token=abc"))
    assert record.input == "rtsp://10.0.0.9/stream1"


def test_a_film_is_shown_through_a_virtual_camera(camera: FakeCamera, tmp_path: Path) -> None:
    device, sizes = FakeDevice(), list[tuple[int, int, float]]()

    def opens(width: int, height: int, fps: float) -> FakeDevice:
        sizes.append((width, height, fps))
        return device

    request = replace(film_request("webcam:0", output=Path("virtualcam"), length="40f"), fps=FAST, scale=2)
    code = show(request, console=Console(file=io.StringIO()), opener=EchoOpener(), device=opens)
    assert code == 0
    assert sizes == [(128, 96, 200.0)]
    assert len(device.sent) == 40
    assert device.closed
    assert camera.closed
    camera.pictures = camera.sent + 100
    printed = io.StringIO()
    longer = replace(request, length=None)
    assert show(longer, console=Console(file=printed), opener=EchoOpener(), device=lambda *_: FakeDevice()) == 1
    assert "unplugged" in printed.getvalue()


def test_video_and_film_stand_beside_each_other(tmp_path: Path) -> None:
    from tests.media.clips import write_clip
    from tests.render.test_from_video import times

    ticks = [0, 40, 90, 130, 300, 400, 433, 466, 499, 600]
    video = write_clip(tmp_path / "in.mp4", 10, ticks=ticks, tick=Fraction(1, 1000))
    request = film_request(video, output=tmp_path / "out.mp4")
    assert request.video is not None
    both = tmp_path / "both.mp4"
    assert run(replace(request, video=replace(request.video, side_by_side=both)))[0] == 0
    frames = decode(both)
    assert frames.shape == (10, 48, 128, 3)
    for index, frame in enumerate(frames):
        assert (number_of(frame[:, :64]), number_of(frame[:, 64:])) == (index, index)
    assert times(both) == times(tmp_path / "out.mp4")
    assert np.abs(frames[0][:, :64].astype(int) - numbered(0)).mean() < 6
    with pytest.raises(UsageMistake, match=r"both.mp4 exists already"):
        run(replace(request, output=tmp_path / "c.mp4", video=replace(request.video, side_by_side=both)))
