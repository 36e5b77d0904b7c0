"""Films on disk: right colours, right count, the same bytes twice, and something to play whatever happens."""

from __future__ import annotations

import resource
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import InvalidDataError
from numpy.typing import NDArray

from app.media.join import join
from app.media.mp4 import FilmWriter, viewing_scale

FPS = Fraction(16)


def picture(frames: int, height: int = 32, width: int = 48, noise: int | None = None) -> NDArray[np.uint8]:
    """A blue field with a red square that moves a pixel a frame, or seeded noise, which compresses badly."""
    if noise is not None:
        return np.random.default_rng(noise).integers(0, 256, (frames, height, width, 3), np.uint8)
    pixels = np.full((frames, height, width, 3), (20, 60, 200), np.uint8)
    for number in range(frames):
        pixels[number, 8:24, number % 16 : number % 16 + 16] = (220, 30, 40)
    return pixels


def write_film(path: Path, pixels: NDArray[np.uint8], *, scale: int = 1, crf: int = 18) -> Path:
    part = path.with_suffix(".part.mp4")
    writer = FilmWriter(part, height=pixels.shape[1], width=pixels.shape[2], fps=FPS, scale=scale, crf=crf)
    for start in range(0, len(pixels), 5):
        writer.write(pixels[start : start + 5])
    writer.close()
    join([part], path)
    part.unlink()
    return path


def decode(path: Path) -> NDArray[np.uint8]:
    """Every frame that can be read, uint8 RGB; a damaged end ends the list."""
    frames: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as film, suppress(InvalidDataError):
        frames.extend(frame.to_ndarray(format="rgb24") for frame in film.decode(video=0))  # pyright: ignore[reportArgumentType]
    return np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)


def test_a_film_keeps_count_size_rate_and_colours(tmp_path: Path) -> None:
    pixels = picture(23)
    path = write_film(tmp_path / "film.mp4", pixels, crf=4)
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.width, stream.codec_context.height) == (48, 32)
        assert (stream.average_rate, stream.frames, stream.codec_context.name) == (FPS, 23, "h264")
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(23, 16)
    shown = decode(path)
    assert shown.shape == pixels.shape
    assert np.abs(shown[:, 0, -1].astype(int) - pixels[:, 0, -1]).max() <= 4  # the field
    middle = [shown[t, 16, t % 16 + 8].astype(int) - (220, 30, 40) for t in range(23)]  # the square, where it is
    assert np.abs(middle).max() <= 6


def test_a_film_has_no_b_frames_and_times_that_count_up(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4", picture(40))
    with av.open(str(path)) as film:
        times = [(packet.pts, packet.dts) for packet in film.demux(video=0) if packet.dts is not None]
    assert len(times) == 40
    assert all(pts == dts for pts, dts in times)
    steps = {after[0] - before[0] for before, after in pairwise(times)}  # pyright: ignore[reportOperatorIssue]
    assert len(steps) == 1


def test_the_same_frames_make_the_same_bytes(tmp_path: Path) -> None:
    one = write_film(tmp_path / "one.mp4", picture(30, noise=1)).read_bytes()
    assert write_film(tmp_path / "two.mp4", picture(30, noise=1)).read_bytes() == one
    assert write_film(tmp_path / "three.mp4", picture(30, noise=2)).read_bytes() != one


def test_small_films_are_enlarged_smoothly(tmp_path: Path) -> None:
    assert [viewing_scale(*size) for size in ((96, 96), (128, 128), (192, 320), (480, 832), (16, 24))] == [
        4,
        3,
        2,
        1,
        24,
    ]
    pixels = picture(3)
    shown = decode(write_film(tmp_path / "film.mp4", pixels, scale=3, crf=4))
    assert shown.shape == (3, 96, 144, 3)
    assert np.abs(shown[0, 48, 24].astype(int) - (220, 30, 40)).max() <= 6
    assert np.abs(shown[0, 4, 4].astype(int) - (20, 60, 200)).max() <= 6


def test_a_growing_film_plays_up_to_the_last_frame_but_one(tmp_path: Path) -> None:
    writer = FilmWriter(tmp_path / "film.part.mp4", height=32, width=48, fps=FPS)
    for written in (12, 24, 36):
        writer.write(picture(12))
        killed = tmp_path / "killed.mp4"
        killed.write_bytes((tmp_path / "film.part.mp4").read_bytes())  # what kill -9 leaves
        assert len(decode(killed)) >= written - 1
    writer.close()
    assert len(decode(tmp_path / "film.part.mp4")) == 36


def test_a_full_disk_leaves_the_whole_writes(tmp_path: Path) -> None:
    path = tmp_path / "film.part.mp4"
    writer = FilmWriter(path, height=96, width=96, fps=FPS, crf=4)
    writer.write(picture(8, 96, 96, noise=1))
    whole = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 1000, hard))  # a file-size limit fails as a full disk does
    try:
        with pytest.raises(OSError, match="too large"):
            writer.write(picture(8, 96, 96, noise=2))
        assert path.stat().st_size > whole  # half a frame got through
        writer.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == whole
    assert len(decode(path)) >= 7


def test_a_film_appears_whole_under_its_name_with_its_index_first(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4", picture(30, noise=1))
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    content = path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_a_copy_that_fails_leaves_the_part_and_no_film(tmp_path: Path) -> None:
    part = tmp_path / "film.part.mp4"
    part.write_bytes(b"this is not a film")
    with pytest.raises(ValueError, match="not a segment"):
        join([part], tmp_path / "film.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["film.part.mp4"]


def test_odd_sizes_and_foreign_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sizes"):
        FilmWriter(tmp_path / "film.mp4", height=33, width=48, fps=FPS)
    assert not (tmp_path / "film.mp4").exists()
    writer = FilmWriter(tmp_path / "film.mp4", height=32, width=48, fps=FPS)
    with pytest.raises(ValueError, match="uint8"):
        writer.write(picture(1, 48, 32))
    writer.write(picture(1))
    writer.close()
