"""Subtitles: what a player shows is what was asked for, whatever was asked for."""

from __future__ import annotations

import html
import re
import resource
from pathlib import Path

import av
import pytest

from app.media.subtitles import Chapter, chapters_of, write_vtt

HOSTILE = [
    "a red ball",
    "00:00:00.000 --> 00:00:09.000",
    "two\nlines",
    "an\n\nempty\r\n\r\nline\rand a return",
    "<b>bold</b> & <script>alert(1)</script> &lt;",
    "NOTE not a note",
    "WEBVTT",
    "STYLE\n::cue { color: red }",
    "狐が雪の上を歩く \N{FOX FACE}",
    "NUL \0 byte",
]


def parse(text: str) -> list[tuple[float, float, str]]:
    """Read cues as the W3C's WebVTT parser does: blocks end at an empty line, the first --> line has the times."""
    lines = re.split(r"\r\n|\r|\n", text)
    assert lines[0] == "WEBVTT"
    assert "\0" not in text
    cues: list[tuple[float, float, str]] = []
    at = 1
    while at < len(lines):
        if "-->" not in lines[at]:
            assert lines[at] == "", f"stray line {lines[at]!r}"
            at += 1
            continue
        found = re.fullmatch(r"(\d{2,}):([0-5]\d):([0-5]\d\.\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d\.\d{3})", lines[at])
        assert found is not None, lines[at]
        start, end = (int(found[n]) * 3600 + int(found[n + 1]) * 60 + float(found[n + 2]) for n in (1, 4))
        body: list[str] = []
        at += 1
        while at < len(lines) and lines[at]:
            assert "-->" not in lines[at]
            body.append(lines[at])
            at += 1
        assert not re.search(r"<|&(?!(amp|lt|gt);)", "\n".join(body))
        cues.append((start, end, html.unescape("\n".join(body))))
    return cues


def test_every_prompt_comes_back_with_its_times(tmp_path: Path) -> None:
    chapters = [Chapter(n * 900.125, (n + 1) * 900.125, title) for n, title in enumerate(HOSTILE)]
    write_vtt(chapters, tmp_path / "film.vtt")
    assert [file.name for file in tmp_path.iterdir()] == ["film.vtt"]
    cues = parse((tmp_path / "film.vtt").read_bytes().decode("utf-8"))
    assert [(start, end) for start, end, _ in cues] == [(c.start, c.end) for c in chapters]
    expected = list(HOSTILE)
    expected[3] = "an\nempty\nline\nand a return"
    expected[9] = "NUL � byte"
    assert [text for _, _, text in cues] == expected


def test_players_read_as_many_cues_as_there_are_prompts(tmp_path: Path) -> None:
    write_vtt([Chapter(n, n + 1, title) for n, title in enumerate(HOSTILE)], tmp_path / "film.vtt")
    with av.open(str(tmp_path / "film.vtt")) as file:
        packets = [packet for packet in file.demux(subtitles=0) if packet.size]
    assert [(packet.pts, packet.duration) for packet in packets] == [(n * 1000, 1000) for n in range(len(HOSTILE))]
    assert b"red ball" in bytes(packets[0])


def test_cues_that_could_not_be_seen_are_left_out(tmp_path: Path) -> None:
    write_vtt([Chapter(0, 0.0001, "blink"), Chapter(0, 1, " \n "), Chapter(1, 2, "seen")], tmp_path / "film.vtt")
    assert parse((tmp_path / "film.vtt").read_text(encoding="utf-8")) == [(1, 2, "seen")]
    write_vtt([], tmp_path / "film.vtt")
    assert parse((tmp_path / "film.vtt").read_text(encoding="utf-8")) == []


def test_shots_become_chapters_up_to_the_films_end() -> None:
    shots = [(0.0, "one"), (2.0, "two"), (5.0, "never reached")]
    assert chapters_of(shots, 4.5) == (Chapter(0.0, 2.0, "one"), Chapter(2.0, 4.5, "two"))
    assert chapters_of([], 4.5) == ()


def test_a_full_disk_leaves_the_subtitles_of_before(tmp_path: Path) -> None:
    path = tmp_path / "film.vtt"
    path.write_text("of before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # a file-size limit fails as a full disk does
    try:
        with pytest.raises(OSError, match="too large"):
            write_vtt([Chapter(n, n + 1, "a red ball") for n in range(100)], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["of before"]
