"""Video files: their times, colours and orientation, and a sentence for what is none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.errors import UsageMistake
from app.media.files import FileSource, VideoFile, survey
from app.media.fit import Fit, Orientation
from app.media.source import Picture, SourceLost
from tests.media.clips import number_of, numbered, write_clip

WHOLE = Fit(48, 64)


def pictures(file: VideoFile, fit: Fit = WHOLE, moments: list[int] | None = None) -> list[Picture]:
    source = FileSource(file, fit, list(file.ticks) if moments is None else moments)
    source.open()
    found: list[Picture] = []
    while (picture := source.read()) is not None:
        found.append(picture)
    source.close()
    return found


def first(path: Path, fit: Fit = WHOLE) -> NDArray[np.uint8]:
    return pictures(survey(path), fit)[0].pixels


# ------------------------------------------------------------------ times


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mov", "prores_ks")])
def test_every_picture_of_29_97_comes_at_its_exact_time(tmp_path: Path, name: str, codec: str) -> None:
    rate = Fraction(30_000, 1001)
    form = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    file = survey(write_clip(tmp_path / name, 40, rate=rate, codec=codec, form=form))
    assert file.rate == rate
    assert len(file.ticks) == 40
    assert float(file.seconds) == pytest.approx(40 / rate, abs=1.1e-3)
    found = pictures(file)
    assert [number_of(picture.pixels) for picture in found] == [*range(40)]
    assert max(abs(picture.seconds - index / rate) for index, picture in enumerate(found)) < 1e-3


def test_a_variable_rate_keeps_its_own_times_and_has_no_rate(tmp_path: Path) -> None:
    ticks = [0, 40, 90, 91, 300, 1000, 1033]
    file = survey(write_clip(tmp_path / "a.mp4", 7, ticks=ticks, tick=Fraction(1, 1000)))
    assert file.rate is None
    assert [round(float(at * file.tick), 6) for at in file.ticks] == [at / 1000 for at in ticks]
    found = pictures(file)
    assert [number_of(picture.pixels) for picture in found] == [*range(7)]
    assert [round(picture.seconds, 6) for picture in found] == [at / 1000 for at in ticks]


def test_sampling_shows_the_newest_picture_of_each_moment(tmp_path: Path) -> None:
    file = survey(write_clip(tmp_path / "a.mp4", 30, rate=30))
    moments = file.sampled(Fraction(16))
    assert len(moments) == 16
    shown = [number_of(picture.pixels) for picture in pictures(file, moments=moments)]
    assert shown == [index * 30 // 16 for index in range(16)]
    assert len(file.sampled(Fraction(161, 10))) == 16, "as long as the file, to half a picture"
    slow = file.sampled(Fraction(60))
    assert [number_of(picture.pixels) for picture in pictures(file, moments=slow)] == [
        n for n in range(30) for _ in "ab"
    ]


def test_frames_that_were_reordered_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    options = {"crf": "6", "bf": "3", "x264-params": "b-adapt=0"}
    file = survey(write_clip(tmp_path / "a.mp4", 24, options=options))
    assert [number_of(picture.pixels) for picture in pictures(file)] == [*range(24)]


def test_a_file_without_times_is_counted(tmp_path: Path) -> None:
    file = survey(write_clip(tmp_path / "a.h264", 10, rate=25, options={"crf": "6", "bf": "0"}))
    assert file.counted
    assert file.rate == 25
    assert [number_of(picture.pixels) for picture in pictures(file)] == [*range(10)]


def test_a_source_begins_later_where_pictures_are_skipped(tmp_path: Path) -> None:
    file = survey(write_clip(tmp_path / "a.mp4", 20))
    source = FileSource(file, WHOLE, list(file.ticks))
    source.skip(13)
    source.open()
    shown = source.read()
    source.close()
    assert shown is not None
    assert number_of(shown.pixels) == 13


# ------------------------------------------------------------------ colours


@pytest.mark.parametrize(
    ("codec", "form", "name"),
    [
        ("libx264", "yuv420p", "a.mp4"),
        ("libx264", "yuv420p10le", "a.mp4"),
        ("libx264", "yuv444p", "a.mkv"),
        ("libx265", "yuv420p10le", "a.mp4"),
        ("ffv1", "gbrp12le", "a.mkv"),
        ("ffv1", "bgr0", "a.mkv"),
        ("png", "rgb24", "a.mov"),
        ("mjpeg", "yuvj422p", "a.avi"),
        ("qtrle", "rgb24", "a.mov"),
    ],
)
def test_colours_are_the_same_in_every_pixel_format(tmp_path: Path, codec: str, form: str, name: str) -> None:
    options = {"x265-params": "log-level=none:qp=4"} if codec == "libx265" else None
    path = write_clip(tmp_path / name, 2, codec=codec, form=form, options=options)
    off = np.abs(first(path).astype(int) - numbered(0))
    assert np.median(off) <= 2
    for area in (np.s_[10:14, 2:6], np.s_[-6:-2, 2:6], np.s_[-6:-2, -6:-2], np.s_[20:30, 20:40]):
        assert off[area].max() <= 8


@pytest.mark.parametrize("colorspace", [1, 5, 9])
@pytest.mark.parametrize("color_range", [1, 2])
def test_matrix_and_range_are_those_of_the_file(tmp_path: Path, colorspace: int, color_range: int) -> None:
    form = "yuv444p" if color_range == 1 else "yuvj444p"
    path = write_clip(tmp_path / "a.mkv", 1, form=form, colorspace=colorspace, color_range=color_range)
    off = np.abs(first(path).astype(int) - numbered(0))
    assert off[10:14, 2:6].max() <= 5
    assert off[20:30, 20:40].max() <= 3


def test_a_film_that_names_no_matrix_has_the_one_that_players_take(tmp_path: Path) -> None:
    for height, width, matrix in ((48, 64, 5), (720, 96, 1)):

        def paint(_: int, height: int = height, width: int = width) -> NDArray[np.uint8]:
            return np.full((height, width, 3), (20, 200, 60), np.uint8)

        frame = av.VideoFrame.from_ndarray(paint(0), format="rgb24").reformat(format="yuv444p", dst_colorspace=matrix)
        frame.colorspace, frame.pts, frame.time_base = 2, 0, Fraction(1, 30)
        path = tmp_path / f"{height}.mkv"
        with av.open(str(path), "w") as film:
            stream = film.add_stream("libx264", rate=30, options={"crf": "4"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
            film.mux(stream.encode(frame))
            film.mux(stream.encode(None))
        off = np.abs(first(path, Fit(48, 64)).astype(int) - (20, 200, 60))
        assert off.max() <= 5


def test_what_is_transparent_shows_black_and_half_of_it_half(tmp_path: Path) -> None:
    def paint(_: int) -> NDArray[np.uint8]:
        picture = np.full((48, 64, 4), (200, 100, 50, 255), np.uint8)
        picture[:, :20, 3], picture[:, 20:40, 3] = 0, 128
        return picture

    for codec, form, name in (("png", "rgba", "a.mov"), ("qtrle", "argb", "b.mov"), ("ffv1", "yuva444p", "a.mkv")):
        shown = first(write_clip(tmp_path / name, 1, codec=codec, form=form, paint=paint))
        assert shown[24, 5].max() <= 2, form
        assert np.abs(shown[24, 30].astype(int) - (100, 50, 25)).max() <= 3, form
        assert np.abs(shown[24, 55].astype(int) - (200, 100, 50)).max() <= 3, form


@pytest.mark.parametrize(("trc", "white", "grey"), [(16, 0.5806, 0.4), (18, 0.75, 0.5)])
def test_hdr_keeps_white_white_and_its_highlights_apart(tmp_path: Path, trc: int, white: float, grey: float) -> None:
    codes = [0.0, grey, white, white + 0.1, 1.0]

    def paint(_: int) -> NDArray[np.uint8]:
        picture = np.zeros((48, 50, 3), np.uint8)
        for index, code in enumerate(codes):
            picture[:, index * 10 : index * 10 + 10] = round(255 * code)
        return picture

    options = {"x265-params": "log-level=none:lossless=1"}
    path = write_clip(
        tmp_path / "a.mp4", 1, codec="libx265", form="yuv420p10le", paint=paint, options=options, colorspace=9, trc=trc,
        width=50,
    )  # fmt: skip
    shown = first(path, Fit(48, 50))
    tones = [int(shown[24, index * 10 + 5].mean()) for index in range(len(codes))]
    assert np.ptp(shown[24, 5:46:10], axis=1).max() <= 2, "grey stays grey"
    assert tones[0] <= 1
    assert tones == sorted(set(tones)), "every tone is its own"
    assert 60 <= tones[1] <= 150
    assert 225 <= tones[2] <= 248
    assert tones[4] >= 250


# ------------------------------------------------------------------ orientation and size


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_phones_film_is_shown_upright(tmp_path: Path, turn: int) -> None:
    stored = write_clip(tmp_path / "a.mp4", 2, turn=turn, height=48, width=64)
    file = survey(stored)
    size = (64, 48) if turn % 180 else (48, 64)
    assert (file.height, file.width) == size
    expected = np.rot90(numbered(0), -turn // 90)
    assert np.median(np.abs(first(stored, Fit(*size)).astype(int) - expected)) <= 2
    corners = first(stored, Fit(*size)).astype(int)[[4, 4, -4, -4], [4, -4, 4, -4]]
    assert np.abs(corners - expected[[4, 4, -4, -4], [4, -4, 4, -4]]).max() <= 12


def test_a_mirrored_film_is_mirrored(tmp_path: Path) -> None:
    stored = write_clip(tmp_path / "a.mp4", 1, turn=0, mirrored=(True, False))
    assert np.median(np.abs(first(stored).astype(int) - numbered(0)[:, ::-1])) <= 2


def test_turning_by_hand_comes_on_top(tmp_path: Path) -> None:
    stored = write_clip(tmp_path / "a.mp4", 1, turn=90)
    shown = first(stored, Fit(48, 64, turn=270))
    assert np.median(np.abs(shown.astype(int) - numbered(0))) <= 2


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("transposed", [False, True])
def test_orientations_turn_as_pictures_do(degrees: int, transposed: bool) -> None:
    picture = numbered(5)
    orientation = Orientation(transposed, mirrored=True)
    expected = np.rot90(orientation.upright(picture), -degrees // 90)
    assert np.array_equal(orientation.turned(degrees).upright(picture), expected)


def test_crop_pad_and_stretch_keep_what_they_say(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1, height=48, width=96)
    crop, pad, stretch = (first(path, Fit(64, 64, how)) for how in ("crop", "pad", "stretch"))
    assert all(picture.shape == (64, 64, 3) for picture in (crop, pad, stretch))
    assert crop[-4:, :4].mean() == pytest.approx(110, abs=6), "the corners are cut off"
    assert pad[:15].max() <= 2
    assert pad[-15:].max() <= 2
    assert np.abs(pad[16 + 28, 2].astype(int) - (30, 200, 40)).max() <= 25, "and here they are all there"
    assert np.abs(stretch[-3, 2].astype(int) - (30, 200, 40)).max() <= 25


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path: Path) -> None:
    file = survey(write_clip(tmp_path / "a.mp4", 1, aspect=Fraction(3, 2)))
    assert (file.height, file.width) == (48, 96)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (47, 63), (1, 300)])
def test_odd_and_tiny_pictures_are_read(tmp_path: Path, height: int, width: int) -> None:
    def paint(_: int) -> NDArray[np.uint8]:
        return np.full((height, width, 3), (200, 100, 50), np.uint8)

    path = write_clip(tmp_path / "a.mkv", 2, codec="ffv1", form="bgr0", height=height, width=width, paint=paint)
    for how in ("crop", "pad", "stretch"):
        shown = first(path, Fit(32, 32, how))
        assert np.abs(shown[16, 16].astype(int) - (200, 100, 50)).max() <= 2


def test_8k_is_read_in_the_models_size(tmp_path: Path) -> None:
    picture = np.full((4320, 7680, 3), (200, 100, 50), np.uint8)
    path = write_clip(
        tmp_path / "a.avi", 1, codec="mjpeg", form="yuvj420p", height=4320, width=7680, paint=lambda _: picture
    )
    assert np.abs(first(path, Fit(192, 192)).astype(int) - (200, 100, 50)).max() <= 3


# ------------------------------------------------------------------ what is none, or not whole


def test_what_is_no_film_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "words.mp4").write_text("no film at all\n" * 100)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    Image.new("RGB", (64, 48)).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    with av.open(str(tmp_path / "song.mp4"), "w") as song:
        voice = song.add_stream("aac", rate=48_000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        part.sample_rate = 48_000
        song.mux(voice.encode(part))
        song.mux(voice.encode(None))
    for name, told in (
        ("missing.mp4", "cannot be found"),
        ("empty.mp4", "is empty"),
        ("folder.mp4", "is a folder"),
        ("words.mp4", "cannot be read as a video"),
        ("list.mp4", "cannot be read as a video"),
        ("picture.mp4", "is a still picture"),
        ("song.mp4", "holds sound and no pictures"),
        ("a\0b.mp4", "NUL"),
    ):
        with pytest.raises(UsageMistake, match=told) as mistake:
            survey(tmp_path / name)
        assert str(mistake.value).count(". ") >= 1
    with pytest.raises(UsageMistake, match="not an ordinary file"):
        survey(Path("/dev/null"))


def test_a_film_without_its_index_is_refused(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.mp4", 60).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageMistake, match="cannot be read as a video"):
        survey(tmp_path / "cut.mp4")


def test_a_film_that_is_cut_off_is_as_long_as_what_is_there(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.mkv", 90).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    file = survey(tmp_path / "cut.mkv")
    assert 10 < len(file.ticks) < 80
    assert [number_of(picture.pixels) for picture in pictures(file)][:10] == [*range(10)]


def test_damaged_pictures_are_held_and_a_damaged_rest_ends_the_film(tmp_path: Path) -> None:
    options = {"crf": "6", "g": "1"}
    data = bytearray(write_clip(tmp_path / "a.mp4", 90, options=options).read_bytes())
    with av.open(str(tmp_path / "a.mp4")) as film:
        places = [(packet.pos, packet.size) for packet in film.demux(video=0) if packet.size and packet.pos is not None]
    few = bytearray(data)
    for pos, size in places[10:13]:
        few[pos : pos + size] = bytes(size)
    (tmp_path / "few.mp4").write_bytes(few)
    shown = [number_of(picture.pixels) for picture in pictures(survey(tmp_path / "few.mp4"))]
    assert shown == [*range(10), 9, 9, 9, *range(13, 90)]
    for pos, size in places[40:]:
        data[pos : pos + size] = bytes(size)
    (tmp_path / "rest.mp4").write_bytes(data)
    file = survey(tmp_path / "rest.mp4")
    source = FileSource(file, WHOLE, list(file.ticks))
    source.open()
    with pytest.raises(SourceLost, match=r"damaged from 1\.30 s on"):
        list(iter(source.read, None))
    source.close()
