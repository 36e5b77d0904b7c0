"""Films made of a video: its pictures, times and sound; resumed, replayed, and ended where it ends."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console

from app.config.lengths import Length, parse_length
from app.config.settings import given_by_flags
from app.errors import RenderFailure, UsageMistake
from app.loading.engine_request import EngineRequest
from app.record import sidecar
from app.record.request import RenderRequest
from app.record.video import VideoRequest
from app.render.render import render
from app.render.replay import replay
from app.script.script import Script, ScriptShot, script_of
from pipelines.presets import PRESETS
from tests.media.clips import number_of, write_clip
from tests.media.test_video import decode
from tests.render.video_doubles import EchoOpener

NTSC = Fraction(30_000, 1001)


def film_request(
    video: Path | str,
    *prompts: str,
    output: Path,
    length: str | None = None,
    rate: Fraction | None = None,
    resume: bool = False,
    overwrite: bool = False,
    script: Script | None = None,
) -> RenderRequest:
    return RenderRequest(
        script=script or script_of(prompts or ("a red ball",)),
        output=output,
        engine=EngineRequest(PRESETS["embedded"]),
        length=None if length is None else parse_length(length),
        seed=7,
        scale=1,
        crf=6,
        resume=resume,
        overwrite=overwrite,
        segment_chunks=2,
        video=VideoRequest(str(video), rate=rate),
    )


def run(request: RenderRequest, opener: EchoOpener | None = None) -> tuple[int, str]:
    printed = io.StringIO()
    code = render(request, console=Console(file=printed, width=200), opener=opener or EchoOpener())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader of")], "a thread was left"
    return code, printed.getvalue()


def times(path: Path) -> list[Fraction]:
    """When each picture of a film is shown, and when the last one ends."""
    with av.open(str(path)) as film:
        packets = [packet for packet in film.demux(video=0) if packet.pts is not None]
        assert all(after.pts == before.pts + before.duration for before, after in pairwise(packets))  # pyright: ignore[reportOperatorIssue]
        at = [packet.pts * packet.time_base for packet in packets]  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
        return [*at, at[-1] + (packets[-1].duration or 0) * packets[-1].time_base]


def clicks(path: Path) -> list[float]:
    """When the film's sound becomes loud, in seconds from its first picture."""
    with av.open(str(path)) as film:
        begin = float(film.streams.video[0].start_time * film.streams.video[0].time_base)  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
        loud: list[float] = []
        for frame in film.decode(audio=0):
            samples = np.abs(frame.to_ndarray()).max(axis=0)
            for index in np.flatnonzero(samples > 0.25):
                at = (frame.time or 0.0) + index / frame.sample_rate - begin
                if not loud or at - loud[-1] > 0.2:
                    loud.append(at)
    return loud


def sound(*at: float, seconds: float) -> np.ndarray:
    """A click at some moments of otherwise silent sound."""
    samples = np.zeros(round(seconds * 48_000), np.float32)
    for moment in at:
        start = round(moment * 48_000)
        samples[start : start + 960] = 0.7 * np.sin(np.arange(960) * 2 * np.pi / 48)
    return samples


# ------------------------------------------------------------------ pictures and times


def test_as_many_pictures_come_out_at_the_same_29_97_and_twice_the_same(tmp_path: Path) -> None:
    video, hashes = write_clip(tmp_path / "in.mp4", 40, rate=NTSC), []
    for name in ("one", "two"):
        output = tmp_path / f"{name}.mp4"
        assert run(film_request(video, output=output))[0] == 0
        assert [number_of(picture) for picture in decode(output)] == [*range(40)]
        assert times(output) == [index / NTSC for index in range(41)]
        record = sidecar.read(tmp_path / f"{name}.json")
        assert (record.config.fps, record.film.frames, record.status) == ("30000/1001", 40, "whole")
        assert [chunk.shown for chunk in record.chunks] == [9, 12, 12, 7]
        assert record.config.video is not None
        assert record.config.video.input == "in.mp4"
        hashes.append(record.film.sha256)
    assert hashes[0] == hashes[1]
    assert not list(tmp_path.glob("*.part*"))


def test_a_variable_rate_comes_out_with_the_sources_times_and_is_proven(tmp_path: Path) -> None:
    ticks = [0, 40, 90, 91, 300, 1000, 1033, 1066, 1099, 1200, 1300, 1400, 1500]
    video = write_clip(tmp_path / "in.mp4", 13, ticks=ticks, tick=Fraction(1, 1000))
    output, script = tmp_path / "out.mp4", Script(
        (ScriptShot(None, "a red ball"), ScriptShot(Length(1.05, "s"), "a blue star"))
    )  # fmt: skip
    assert run(film_request(video, output=output, script=script))[0] == 0
    assert [number_of(picture) for picture in decode(output)] == [*range(13)]
    assert times(output)[:-1] == [Fraction(at, 1000) for at in ticks]
    record = sidecar.read(tmp_path / "out.json")
    assert record.shots[1].requested.frame == 7, "the first picture at or after 1.05 s is the eighth"
    with av.open(str(output)) as film:
        assert [float(chapter["start"] * chapter["time_base"]) for chapter in film.chapters()] == [0, 1.2]  # pyright: ignore[reportOperatorIssue]
    printed = io.StringIO()
    code = replay(
        output,
        tmp_path / "again.mp4",
        check=True,
        overwrite=False,
        console=Console(file=printed, width=300),
        opener=EchoOpener(),
    )
    assert code == 0, printed.getvalue()
    assert "Pictures: proven" in printed.getvalue()
    assert times(tmp_path / "again.mp4") == times(output)


def test_a_video_can_be_taken_at_another_rate(tmp_path: Path) -> None:
    video, output = write_clip(tmp_path / "in.mp4", 30, rate=30), tmp_path / "out.mp4"
    assert run(film_request(video, output=output, rate=Fraction(16)))[0] == 0
    assert [number_of(picture) for picture in decode(output)] == [index * 30 // 16 for index in range(16)]
    assert times(output)[-1] == 1


def test_a_part_of_a_video_and_no_more_than_there_is(tmp_path: Path) -> None:
    video, output = write_clip(tmp_path / "in.mp4", 30, rate=30), tmp_path / "out.mp4"
    assert run(film_request(video, output=output, length="0.5s"))[0] == 0
    assert [number_of(picture) for picture in decode(output)] == [*range(15)]
    with pytest.raises(UsageMistake, match=r"in.mp4 lasts 1\.00 s"):
        run(film_request(video, output=tmp_path / "b.mp4", length="3s"))
    script = replace(script_of(["a red ball"]), end=Length(3, "s"))
    _, printed = run(film_request(video, output=tmp_path / "c.mp4", script=script))
    assert "video ends before the script does" in printed
    assert len(decode(tmp_path / "c.mp4")) == 30
    assert not (tmp_path / "b.mp4").exists()


def test_prompts_and_strength_reach_the_stream(tmp_path: Path) -> None:
    video, opener = write_clip(tmp_path / "in.mp4", 42, rate=30), EchoOpener()
    request = film_request(video, "a red ball", "a blue star", output=tmp_path / "out.mp4")
    assert request.video is not None
    run(replace(request, video=replace(request.video, strength=0.35)), opener)
    asked = opener.echoes[0].asked
    assert [controls.prompt for controls in asked] == ["a red ball"] * 2 + ["a blue star"] * 2
    assert {controls.strength for controls in asked} == {0.35}


# ------------------------------------------------------------------ sound


@pytest.mark.parametrize("late", [0.0, 0.4])
def test_sound_is_heard_at_its_own_time(tmp_path: Path, late: float) -> None:
    loud = sound(0.2, 0.9, seconds=1.6)
    video = write_clip(tmp_path / "in.mov", 60, rate=30, sound=loud, sound_at=late)
    assert clicks(video) == pytest.approx([late + 0.2, late + 0.9], abs=0.03)
    assert run(film_request(video, output=tmp_path / "out.mp4"))[0] == 0
    assert clicks(tmp_path / "out.mp4") == pytest.approx([late + 0.2, late + 0.9], abs=0.03)
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert film.streams.audio[0].duration is not None
        assert float(film.streams.audio[0].duration * film.streams.audio[0].time_base) == pytest.approx(2, abs=0.03)  # pyright: ignore[reportOperatorIssue]


def test_sound_that_begins_before_the_picture_is_cut_there(tmp_path: Path) -> None:
    video = write_clip(
        tmp_path / "in.mkv", 45, rate=30, ticks=[500 + round(index * 1000 / 30) for index in range(45)],
        tick=Fraction(1, 1000), sound=sound(0.2, 0.9, seconds=1.6),
    )  # fmt: skip
    assert run(film_request(video, output=tmp_path / "out.mp4"))[0] == 0
    assert clicks(tmp_path / "out.mp4") == pytest.approx([0.4], abs=0.03)


def test_sound_can_be_left_out(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mp4", 12, sound=sound(0.1, seconds=0.4))
    request = film_request(video, output=tmp_path / "out.mp4")
    assert request.video is not None
    run(replace(request, video=replace(request.video, sound=False)))
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert not film.streams.audio


# ------------------------------------------------------------------ interrupted, resumed, replayed


class Kill(Exception):
    """The process ends here."""


def test_a_film_that_was_killed_goes_on_to_be_the_same_file(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mp4", 75, rate=NTSC, sound=sound(0.5, seconds=2))
    run(film_request(video, output=tmp_path / "whole.mp4"))

    def kill(index: int) -> None:
        if index == 5:
            raise Kill

    with pytest.raises(RenderFailure, match="--resume goes on"):
        run(film_request(video, output=tmp_path / "out.mp4"), EchoOpener(kill))
    opener = EchoOpener()
    begun = film_request(video, output=tmp_path / "out.mp4", resume=True)
    code, printed = run(replace(begun, script=Script(()), video=None), opener)
    assert code == 0
    assert "Going on from chunk 4" in printed
    assert len(opener.echoes[0].asked) == 3
    whole, out = sidecar.read(tmp_path / "whole.json"), sidecar.read(tmp_path / "out.json")
    assert whole.film.sha256 == out.film.sha256
    assert clicks(tmp_path / "out.mp4") == pytest.approx([0.5], abs=0.03)
    assert (tmp_path / "whole.mp4").stat().st_size == (tmp_path / "out.mp4").stat().st_size
    assert np.array_equal(decode(tmp_path / "whole.mp4"), decode(tmp_path / "out.mp4"))


def test_a_film_does_not_go_on_with_another_video(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mp4", 75)

    def kill(index: int) -> None:
        if index == 5:
            raise Kill

    with pytest.raises(RenderFailure):
        run(film_request(video, output=tmp_path / "out.mp4"), EchoOpener(kill))
    write_clip(video, 75, rate=25)
    begun = film_request(video, output=tmp_path / "out.mp4", resume=True)
    with pytest.raises(UsageMistake, match="is not the video that the film was begun with"):
        run(replace(begun, script=Script(()), video=None))
    with pytest.raises(UsageMistake, match="was begun with"):
        run(begun)


def test_a_replay_needs_the_same_video(tmp_path: Path) -> None:
    video, output = write_clip(tmp_path / "in.mp4", 20), tmp_path / "out.mp4"
    run(film_request(video, output=output))
    console = Console(file=io.StringIO())
    moved = video.rename(tmp_path / "moved.mp4")
    with pytest.raises(UsageMistake, match=r"a video that is not here \(in.mp4"):
        replay(output, None, check=False, overwrite=False, console=console, opener=EchoOpener())
    other = write_clip(tmp_path / "other.mp4", 21)
    with pytest.raises(UsageMistake, match=r"is not the in.mp4"):
        replay(output, None, check=False, overwrite=False, console=console, video=str(other), opener=EchoOpener())
    code = replay(output, None, check=False, overwrite=False, console=console, video=str(moved), opener=EchoOpener())
    assert code == 0
    again = sidecar.read(tmp_path / "out-again.json")
    assert again.film.sha256 == sidecar.read(tmp_path / "out.json").film.sha256


def test_a_film_is_never_written_over_its_own_video(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mp4", 12)
    before = video.read_bytes()
    with pytest.raises(UsageMistake, match="would be replaced"):
        run(film_request(video, output=video, overwrite=True))
    assert video.read_bytes() == before


def test_a_video_that_breaks_off_leaves_the_film_made_so_far(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mp4", 90, options={"crf": "6", "g": "1"})
    data = bytearray(video.read_bytes())
    with av.open(str(video)) as film:
        places = [(packet.pos, packet.size) for packet in film.demux(video=0) if packet.size and packet.pos is not None]
    for pos, size in places[40:]:
        data[pos : pos + size] = bytes(size)
    video.write_bytes(data)
    code, printed = run(film_request(video, output=tmp_path / "out.mp4"))
    assert code == 1
    assert "damaged from 1.30 s on" in printed
    assert "--resume" not in printed
    shown = [number_of(picture) for picture in decode(tmp_path / "out.mp4")]
    assert shown[:40] == [*range(40)]
    assert set(shown[40:]) == {39}
    assert len(shown) < 75
    assert sidecar.read(tmp_path / "out.json").status.startswith("ended early by its video")
    assert not list(tmp_path.glob("*.part*"))


def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_text("no video")
    with pytest.raises(UsageMistake, match="cannot be read as a video"):
        run(film_request(tmp_path / "in.mp4", output=tmp_path / "out.mp4"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]
    for wrong in ({"strength": 0.0}, {"strength": 1.5}, {"rotate": 45}, {"fit": "cover"}):
        with pytest.raises(UsageMistake):
            given_by_flags(wrong)
