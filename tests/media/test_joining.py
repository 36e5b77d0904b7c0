"""Joined films: every frame of every segment, exact times, chapters, metadata and sound, or no film at all."""

from __future__ import annotations

import json
import re
import resource
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from app.errors import UsageMistake
from app.media.audio import RATE, check_audio
from app.media.join import join, read_metadata
from app.media.mp4 import FilmWriter
from app.media.subtitles import Chapter

FPS = Fraction(16)


def noise(frames: int, seed: int = 0, side: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), np.uint8)


def segment(path: Path, frames: int, *, seed: int = 0, fps: Fraction = FPS, crf: int = 18, side: int = 32) -> Path:
    writer = FilmWriter(path, height=side, width=side, fps=fps, crf=crf)
    writer.write(noise(frames, seed, side))
    writer.close()
    return path


def segments(folder: Path, lengths: tuple[int, ...], fps: Fraction = FPS) -> list[Path]:
    return [segment(folder / f"{n}.part.mp4", length, seed=n, fps=fps) for n, length in enumerate(lengths)]


def decode(path: Path) -> NDArray[np.uint8]:
    """The planes of every frame as the decoder gives them: no conversion that could hide a difference."""
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray().view(np.uint8) for frame in film.decode(video=0)])


def decode_cut(path: Path, content: bytes) -> NDArray[np.uint8]:
    path.write_bytes(content)
    return decode(path)


def hear(path: Path) -> NDArray[np.float32]:
    """Left channel of the sound as players give it: without the encoder's run-up, which decoders skip."""
    with av.open(str(path)) as film:
        frames = [frame.to_ndarray()[0] for frame in film.decode(audio=0)]
    return np.concatenate(frames)


def tone(path: Path, seconds: float, *, volume: float = 0.5, rate: int = 22_050) -> Path:
    samples = volume * np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 441 / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def test_a_joined_film_shows_every_frame_of_its_segments_bit_for_bit(tmp_path: Path) -> None:
    parts = segments(tmp_path, (9, 1, 40, 12, 1))  # one frame is an IDR beside an IDR, 40 are more than a GOP
    joined = join(parts, tmp_path / "film.mp4")
    shown = decode(tmp_path / "film.mp4")
    assert joined.frames == len(shown) == 63
    assert np.array_equal(shown, np.concatenate([decode(part) for part in parts]))
    assert len({frame.tobytes() for frame in shown}) == 63  # or equality would say nothing about order
    assert all(part.exists() for part in parts)


def test_a_growing_film_of_many_segments_is_one_input(tmp_path: Path) -> None:
    part = tmp_path / "film.part.mp4"
    writer = FilmWriter(part, height=32, width=32, fps=Fraction(24000, 1001))
    for seed in range(4):
        if seed:
            writer.begin_segment()
        writer.write(noise(7, seed))
    writer.close()
    assert join([part], tmp_path / "film.mp4").frames == 28
    assert np.array_equal(decode(tmp_path / "film.mp4"), decode(part))
    content = part.read_bytes()
    second = content.index(b"moof", content.index(b"mdat")) - 4
    third = content.index(b"moof", second + 8) - 4
    part.write_bytes(content[:second] + content[third:])  # a frame is gone
    with pytest.raises(ValueError, match=r"film\.part\.mp4 is damaged at 0\.08 s"):
        join([part], tmp_path / "film.mp4")


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(24000, 1001), Fraction(1), Fraction(240), Fraction(997, 990)])
def test_times_are_exact_over_many_segments(tmp_path: Path, fps: Fraction) -> None:
    parts = segments(tmp_path, (3, 1, 2), fps)
    join(parts * 50, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.frames, stream.average_rate) == (300, fps)
        tick = stream.time_base
        packets = [packet for packet in film.demux(stream) if packet.dts is not None]
    assert tick is not None
    for number, packet in enumerate(packets):
        assert packet.pts is not None
        assert packet.duration is not None
        assert packet.pts == packet.dts
        assert packet.pts * tick == number / fps
        assert packet.duration * tick == 1 / fps


def test_a_film_has_its_index_first_and_no_other_file_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "a folder: with %d"
    folder.mkdir()
    parts = segments(tmp_path, (20, 20))
    join(parts, folder / "b: c.mp4")
    join(parts, folder / "b: c.mp4")  # replaces
    assert [file.name for file in folder.iterdir()] == ["b: c.mp4"]
    content = (folder / "b: c.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_chapters_and_megabytes_of_metadata_come_back(tmp_path: Path) -> None:
    hostile = 'a "fox" & <b>\n狐' * 40
    document = json.dumps({"script": [hostile] * 8000, "seed": 2**63 - 1}, ensure_ascii=False)
    assert len(document.encode()) > 4_000_000
    chapters = [Chapter(n / 16, (n + 1) / 16, f"{n} {hostile}") for n in range(300)]  # MP4's short list holds 255
    metadata = {"rivulet": document, "title": "a fox", "comment": "seed 7\nNUL \0 here", "my own key": "x"}
    path = tmp_path / "film.mp4"
    join(segments(tmp_path, (300,)), path, chapters=chapters, metadata=metadata)
    found = read_metadata(path)
    assert found["rivulet"] == document
    assert (found["title"], found["comment"], found["my own key"]) == ("a fox", "seed 7\nNUL   here", "x")
    with av.open(str(path)) as film:
        read = film.chapters()
    assert len(read) == 300
    for number, chapter in enumerate(read):
        assert chapter["time_base"] is not None
        assert chapter["start"] * chapter["time_base"] == Fraction(round(number / 16 * 1000), 1000)
        title = chapter["metadata"]["title"]
        assert title.startswith(f'{number} a "fox" & <b> 狐a')
        assert len(title.encode()) <= 200
    assert len(decode(path)) == 300


def test_only_the_last_segment_may_end_in_half_a_frame(tmp_path: Path) -> None:
    parts = segments(tmp_path, (6, 6))
    content = parts[1].read_bytes()
    whole = decode(parts[1])
    lengths: set[int] = set()
    header = content.index(b"moof", content.index(b"mdat"))
    sizes = [
        *range(1000, len(content), 397),
        len(content),
        *range(header - 6, header + 96, 11),
        header + 37,
        header + 93,
    ]
    for size in sizes:  # kill -9 at many moments, in and between frames and their headers
        parts[1].write_bytes(content[:size])
        count = join(parts, tmp_path / "film.mp4").frames - 6
        lengths.add(count)
        assert np.array_equal(decode(tmp_path / "film.mp4")[6:], whole[:count])
    assert lengths == {0, 1, 2, 3, 4, 5, 6}
    with pytest.raises(EOFError):  # what FFmpeg says of a header that is cut there
        decode_cut(tmp_path / "cut.mp4", content[: header + 93])
    parts[1].write_bytes(content[:-100])
    (tmp_path / "film.mp4").unlink()
    with pytest.raises(ValueError, match=r"1\.part\.mp4 is damaged in the middle"):
        join([parts[0], parts[1], parts[0]], tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()


def test_segments_that_do_not_belong_together_make_no_film(tmp_path: Path) -> None:
    first = segment(tmp_path / "first.mp4", 4)
    others = [
        segment(tmp_path / "rate.mp4", 4, fps=Fraction(25)),
        segment(tmp_path / "size.mp4", 4, side=48),
    ]
    for other in others:
        with pytest.raises(ValueError, match=f"{other.name} was made with other settings"):
            join([first, other], tmp_path / "film.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("this is not a film")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for bad in (text, empty):
        with pytest.raises(ValueError, match=f"{bad.name} is not a segment"):
            join([first, bad], tmp_path / "film.mp4")
    with pytest.raises(FileNotFoundError):
        join([first, tmp_path / "gone.mp4"], tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="nothing to join"):
        join([], tmp_path / "film.mp4")
    assert not [file for file in tmp_path.iterdir() if "film" in file.name]


def test_a_disk_that_fills_at_any_moment_leaves_no_half_film(tmp_path: Path) -> None:
    parts = segments(tmp_path, (30, 30))
    folder = tmp_path / "full"
    folder.mkdir()
    film = folder / "film.mp4"
    join(parts, film, metadata={"rivulet": "x" * 5000})
    whole = film.stat().st_size
    film.write_bytes(b"the film of before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (*range(0, whole - 1, whole // 12), whole - 6000, whole - 300, whole - 1):  # the index comes last
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # a file-size limit fails as a full disk does
        try:
            with pytest.raises(OSError, match="too large"):
                join(parts, film, metadata={"rivulet": "x" * 5000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [file.name for file in folder.iterdir()] == ["film.mp4"]
        assert film.read_bytes() == b"the film of before"


@pytest.mark.parametrize(
    ("seconds", "sentence"),
    [
        (1.0, r"ends at 1\.00 s; the last 2\.00 s"),
        (5.0, r"longer than the film and was cut at 3\.00 s"),
        (3.0, "exact"),
    ],
)
def test_sound_is_fitted_to_the_film_and_said_so(tmp_path: Path, seconds: float, sentence: str) -> None:
    parts = segments(tmp_path, (24, 24))
    song = tone(tmp_path / "song.wav", seconds)
    check_audio(song)
    joined = join(parts, tmp_path / "film.mp4", audio=song)
    assert joined.frames == 48
    assert re.search(sentence, joined.sound), joined.sound
    heard = hear(tmp_path / "film.mp4")
    assert abs(len(heard) - 3 * RATE) <= 1024  # decoders give whole AAC frames
    loud = np.flatnonzero(np.abs(heard) > 0.1)
    assert loud[0] < 200  # at once: no run-up
    assert loud[-1] == pytest.approx(min(seconds, 3) * RATE, abs=1100)
    assert np.array_equal(decode(tmp_path / "film.mp4"), np.concatenate([decode(part) for part in parts]))
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert [packet.pts for packet in film.demux(video=0)][:2] == [0, 1024]
        audio = film.streams.audio[0]
        assert (audio.codec_context.name, audio.codec_context.sample_rate, audio.layout.name) == ("aac", RATE, "stereo")
        assert audio.duration is not None
        assert audio.time_base is not None
        assert float(audio.duration * audio.time_base) == pytest.approx(3, abs=0.025)


def test_sound_lies_beside_its_pictures_in_the_file(tmp_path: Path) -> None:
    parts = segments(tmp_path, (100,), Fraction(4))
    join(parts, tmp_path / "film.mp4", audio=tone(tmp_path / "song.wav", 20))
    with av.open(str(tmp_path / "film.mp4")) as film:
        places = sorted(
            (packet.pos or 0, packet.stream.type, float(packet.pts * packet.time_base))
            for packet in film.demux(film.streams.video[0], film.streams.audio[0])
            if packet.pts is not None  # demuxed in the order of times, whatever the order in the file
        )
    latest = {"video": 0.0, "audio": 0.0}
    for _, kind, second in places:
        latest[kind] = second
        assert abs(latest["video"] - latest["audio"]) < 1.5  # a player reads on, it does not seek


def test_files_without_usable_sound_are_refused_before_a_film_is_made(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("la la la")
    (tmp_path / "empty.mp3").touch()
    film = segment(tmp_path / "mute.mp4", 4)
    silent = tone(tmp_path / "silent.wav", 2, volume=0)
    nothing = tone(tmp_path / "nothing.wav", 0)
    for path, said in (
        (text, "cannot be read as sound"),
        (tmp_path / "empty.mp3", "cannot be read as sound"),
        (film, "holds no sound"),
        (silent, "silent from beginning to end"),
        (nothing, "nothing in it|cannot be read|holds no sound"),
        (tmp_path, "is a folder"),
        (tmp_path / "gone.wav", "There is no audio file"),
        (Path("a\0b.wav"), "NUL"),
    ):
        with pytest.raises(UsageMistake, match=said):
            check_audio(path)
    check_audio(tone(tmp_path / "quiet.wav", 0.5, volume=0.01))


def test_metadata_of_what_is_no_film_is_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is not a film")
    with pytest.raises(ValueError, match=r"text\.mp4 is not a film"):
        read_metadata(text)
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path / "gone.mp4")
    with pytest.raises(IsADirectoryError, match="folder"):
        read_metadata(tmp_path)
