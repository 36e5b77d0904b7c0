"""Pictures and animations: the frames that were given, their times, and nothing half-made."""

from __future__ import annotations

import gc
import resource
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from app.errors import UsageMistake
from app.media.stills import LONGEST, AnimatedImage, PngSequence, check_stills, sink_kind


def noise(frames: int, seed: int = 0, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def smooth(frames: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """A gradient that moves: what a palette and a lossy format keep well, each frame unlike the others."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [
            np.stack([x * 5 % 256, y * 7 % 256, np.full_like(x, 255 * n // max(1, frames - 1))], -1).astype(np.uint8)
            for n in range(frames)
        ]
    )


def load(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def test_png_frames_are_the_engines_own_pixels(tmp_path: Path) -> None:
    pixels = noise(12)
    sink = PngSequence(tmp_path)
    sink.write(pixels[:5])
    sink.write(pixels[5:])
    sink.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"frame_{n:06d}.png" for n in range(12)]
    assert np.array_equal(np.concatenate([load(file) for file in files]), pixels)


def test_png_patterns_number_scale_go_on_and_replace(tmp_path: Path) -> None:
    pattern = tmp_path / "shot-%03d.png"
    for length in (7, 4):  # a shorter film replaces a longer one
        sink = PngSequence(pattern, scale=2)
        sink.write(noise(length))
        sink.close()
    (tmp_path / "shot-9.png").touch()  # not of the sequence
    sink = PngSequence(pattern, scale=2, first=4)
    sink.write(noise(2, seed=1))
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *(f"shot-{n:03d}.png" for n in range(6)),
        "shot-9.png",
    ]
    assert load(tmp_path / "shot-005.png").shape == (1, 48, 64, 3)


def test_a_disk_that_fills_leaves_whole_pictures_of_whole_writes(tmp_path: Path) -> None:
    sink = PngSequence(tmp_path)
    sink.write(noise(3, height=8, width=8))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # a file-size limit fails as a full disk does
    try:
        with pytest.raises(OSError, match="too large"):
            sink.write(np.concatenate([noise(1, height=40, width=40) // 255, noise(1, height=40, width=40)]))
        animation = AnimatedImage(tmp_path / "film.gif", fps=Fraction(16))
        with pytest.raises(OSError, match="too large"):
            animation.write(noise(1, height=200, width=200))
        animation.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"frame_{n:06d}.png" for n in range(3)]
    assert sink.frames == 3


@pytest.mark.parametrize("name", ["film.gif", "film.webp", "FILM.WebP"])
def test_an_animation_shows_every_frame_for_its_time(tmp_path: Path, name: str) -> None:
    pixels = smooth(33)
    sink = AnimatedImage(tmp_path / name, fps=Fraction(16))
    for start in range(0, 33, 8):
        sink.write(pixels[start : start + 8])
        assert not (tmp_path / name).exists()  # only a whole one has the name
    sink.close()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    shown = load(tmp_path / name)
    assert shown.shape == pixels.shape
    errors = np.abs(shown.astype(int) - pixels).mean((1, 2, 3))
    assert errors.max() < 12
    others = np.abs(shown[:-1].astype(int) - pixels[1:]).mean((1, 2, 3))
    assert (errors[:-1] < others).all() or name == "film.gif"  # each frame is itself, not its neighbour
    assert shown[:, :, :, 2].mean((1, 2)) == pytest.approx(np.linspace(0, 255, 33), abs=6)
    with Image.open(tmp_path / name) as image:
        assert image.info["loop"] == 0
        times: list[float] = []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            times.append(frame.info["duration"])
    assert sum(times) == pytest.approx(33 / 16 * 1000, abs=10)
    assert max(times) - min(times) <= 10


def test_animations_can_be_enlarged_and_have_one_frame(tmp_path: Path) -> None:
    for name in ("one.gif", "one.webp"):
        sink = AnimatedImage(tmp_path / name, fps=Fraction(24000, 1001), scale=3)
        sink.write(noise(1, height=7, width=9))
        sink.close()
        assert load(tmp_path / name).shape == (1, 21, 27, 3)
    empty = AnimatedImage(tmp_path / "none.gif", fps=Fraction(16))
    empty.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.gif", "one.webp"]


@pytest.mark.parametrize("name", ["film.gif", "film.webp", "frame_%06d.png"])
def test_memory_does_not_grow_with_the_film(tmp_path: Path, name: str) -> None:
    pixels = noise(2, height=64, width=64)
    sink = PngSequence(tmp_path / name) if "%" in name else AnimatedImage(tmp_path / name, fps=Fraction(16))
    sink.write(pixels)  # the first write imports
    tracemalloc.start()
    try:
        for _ in range(12):
            sink.write(pixels)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        sink.close()
    assert grown < pixels.nbytes  # 24 frames of noise


def test_the_name_tells_the_kind_and_wrong_names_are_refused(tmp_path: Path) -> None:
    good = {"a.mp4": "mp4", "A.MP4": "mp4", "a.gif": "gif", "a.webp": "webp", "f_%06d.png": "png", "%d.png": "png"}
    assert {name: sink_kind(Path(name)) for name in good} == good
    assert sink_kind(tmp_path) == "png"
    for name, hint in {
        "a.mp3": "a.mp4",
        "a.gfi": "a.gif",
        "a.web": "a.webp",
        "a.mkv": r"a.mp4",
        "out": "out.mp4",
        "a.png": "a_%06d.png",
        "a_%s.png": "%06d",
        "%d_%d.png": "%06d",
    }.items():
        with pytest.raises(UsageMistake, match=rf"Give (for example )?.*{hint}"):
            sink_kind(Path(name))


def test_films_an_animation_cannot_hold_are_refused_before_they_are_made(tmp_path: Path) -> None:
    check_stills(Path("a.mp4"), 10**7)
    check_stills(tmp_path, 10**7, fps=Fraction(240))
    check_stills(Path("a.gif"), LONGEST, fps=Fraction(50))
    check_stills(Path("a.webp"), LONGEST, fps=Fraction(240), size=(16383, 16))
    for name in ("a.gif", "a.webp"):
        with pytest.raises(UsageMistake, match=f"{LONGEST + 1} frames are too many"):
            check_stills(Path(name), LONGEST + 1)
        sink = AnimatedImage(tmp_path / name, fps=Fraction(16))
        with pytest.raises(ValueError, match="choose an MP4"):
            sink.write(np.broadcast_to(noise(1), (LONGEST + 1, 24, 32, 3)))
        sink.abandon()
    with pytest.raises(UsageMistake, match="at most 50 frames a second"):
        check_stills(Path("a.gif"), 10, fps=Fraction(60))
    with pytest.raises(UsageMistake, match="16383 pixels"):
        check_stills(Path("a.webp"), 10, size=(16384, 16))
    with pytest.raises(ValueError, match="uint8"):
        PngSequence(tmp_path).write(noise(1)[0])
    assert not list(tmp_path.iterdir())
