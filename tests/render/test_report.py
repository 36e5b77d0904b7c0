"""The report: everything a person asks about a film on one page, nothing from elsewhere, nothing that runs."""

from __future__ import annotations

import base64
import re
import shlex
from fractions import Fraction
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from app.media.join import join
from app.media.mp4 import FilmWriter
from app.media.stills import AnimatedImage, PngSequence
from app.media.thumbnails import frames_at, jpegs, spaced
from app.record import sidecar
from app.render import report
from app.render.plots import BINS, Plot, Point, draw, thin

FPS = 16
HOSTILE = [
    "<script>alert(1)</script> & \"double\" 'single'",
    "</style></table></main><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "two\nlines\x1b[31m",
    "right \u202e left",
    "狐が雪の上を歩く",
]
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; keeps tags with attributes, and the text of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def place(frame: int) -> dict[str, float]:
    return {"second": frame / FPS, "frame": frame, "latent": frame // 4, "chunk": frame // 12}


def record(frames: int, prompts: list[str], **film: Any) -> sidecar.Sidecar:
    """A sidecar of a film with equal shots; chunk 5 is slow, drift begins with chunk 3."""
    starts = [index * (frames // len(prompts)) // 12 * 12 for index in range(len(prompts))]
    chunks = [
        {
            "index": index,
            "epoch": 0,
            "latent": (index * 3, index * 3 + 3),
            "frames": (start, start + 12),
            "shown": min(12, frames - start),
            "prompt": "",
            "sha256": "0" * 64,
            "drift": None if index < 3 else 0.25,
            "memory": 2**30 + index,
            "seconds": {
                "denoise": 3.0 if index == 5 else 0.5,
                "remember": 0.05,
                "decode": 0.1,
                "model": 0.5,
                "encode": 0.1,
            },
        }
        for index, start in enumerate(range(0, frames, 12))
    ]
    return sidecar.Sidecar.model_validate(
        {
            "format": sidecar.FORMAT,
            "status": "whole",
            "seed": 7,
            "config": {
                "script": "shots: []",
                "frames": frames,
                "preset": "embedded",
                "knobs": {"sink_size": 3},
                "system": {"kind": "Preset", "cache": {"window": 12}, "steps": [1000, 500]},
                "untrained": False,
                "device": "cpu",
                "threads": 2,
                "height": None,
                "width": None,
                "fps": "16",
                "scale": 1,
                "crf": 18,
                "segment_chunks": 24,
            },
            "model": {"name": "embedded", "sha256": "a" * 64},
            "versions": {"torch": "9.9.9"},
            "machine": {"system": "Linux", "cpu": "a processor", "cores": 2},
            "film": {
                "file": "out.mp4",
                "frames": frames,
                "seconds": frames / FPS,
                "fps": FPS,
                "height": 32,
                "width": 48,
                "scale": 1,
                "crf": 18,
                "sha256": "b" * 64,
            }
            | film,
            "shots": [
                {"prompt": prompt, "requested": place(start + (3 if start else 0)), "actual": place(start)}
                for prompt, start in zip(prompts, starts, strict=True)
            ],
            "chunks": chunks,
            "timing": {"load": 1.0, "first_frame": 0.7, "render": 60.0, "fps": frames / 60},
        }
    )


def grey(frames: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frame n has a mean grey of 2n, so that a picture says which frame it is.

    The grain lies still, so that an encoder has a reason to predict frames instead of making each a key frame.
    """
    grain = np.random.default_rng(0).integers(0, 16, (32, 48, 1))
    levels = 2.0 * np.arange(frames)[:, None, None, None] + grain - grain.mean()
    return np.broadcast_to(np.clip(levels.round(), 0, 255).astype(np.uint8), (frames, 32, 48, 3)).copy()


def write_film(path: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]], *, times: int = 1, scale: int = 1) -> Path:
    part = path.with_suffix(".part.mp4")
    writer = FilmWriter(part, height=pixels.shape[1], width=pixels.shape[2], fps=Fraction(FPS), scale=scale, crf=4)
    writer.write(pixels)
    writer.close()
    join([part] * times, path)
    part.unlink()
    return path


def level(uri: str) -> float:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(BytesIO(base64.b64decode(data, validate=True))) as picture:
        return float(np.asarray(picture.convert("L")).mean())


def test_a_report_holds_the_film_its_shots_and_its_settings_and_nothing_foreign(tmp_path: Path) -> None:
    film = write_film(tmp_path / "out.mp4", grey(120))
    report.write(record(120, HOSTILE), film, tmp_path / "out.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.html", "out.mp4"]
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    page = Page(text)
    joined = "\n".join(page.texts)
    for prompt in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[5]):
        assert prompt in page.texts  # as text, whole
    assert "two\nlines\\x1b[31m" in page.texts
    assert "right \\u202e left" in page.texts
    for fact in ("9.9.9", "a processor", "b" * 64, "a" * 64, "system.cache.window", "7.50 s", "1000, 500"):
        assert fact in joined, fact
    allowed = {"script": 0, "iframe": 0, "object": 0, "embed": 0, "link": 0, "form": 0, "base": 0}
    assert {tag: len(page.all(tag)) for tag in allowed} == allowed
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "action" not in attributes
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert attributes.get("href") in (None, "./out.mp4")
    assert not re.search(
        r"url\(|@import|https?:|//", text.replace("base64,", "").split("</style>")[0].split("<style>")[1]
    )
    policy = [tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert "default-src 'none'" in (policy[0] or "")


def test_pictures_are_the_frames_they_say(tmp_path: Path) -> None:
    film = write_film(tmp_path / "out.mp4", grey(120))
    with av.open(str(film)) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0)) < 12
    page = Page(report.page(record(120, ["one", "two", "three"]), film, tmp_path / "out.html"))
    strip = [tag for tag in page.all("img") if tag["alt"]]
    assert len(strip) == 12
    numbers = [int((tag["alt"] or "").removeprefix("Frame ")) for tag in strip]
    assert numbers == [5 + 10 * index for index in range(12)]
    assert [level(tag["src"] or "") for tag in strip] == pytest.approx([2 * number for number in numbers], abs=2)
    shots = [level(tag["src"] or "") for tag in page.all("img") if not tag["alt"]]
    assert shots == pytest.approx([36, 2 * ((36 + 72) // 2), 2 * ((72 + 120) // 2)], abs=2)


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "frames"])
def test_pictures_come_from_every_kind_of_film(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "frames":
        path.mkdir()
    sink = PngSequence(path) if name == "frames" else AnimatedImage(path, fps=Fraction(FPS))
    sink.write(grey(20))
    sink.close()
    found = frames_at(path, [0, 7, 19, 20])
    assert list(found) == [0, 7, 19]
    for number, picture in found.items():
        assert np.asarray(picture).mean() == pytest.approx(2 * number, abs=4)


def test_an_hour_of_noise_with_long_prompts_stays_small(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    film = write_film(tmp_path / "out.mp4", pixels, times=10)
    path = tmp_path / "out.html"
    for limit, count in ((200_000, 10), (30_000, 10), (8_000, 5)):
        pictures = jpegs(film, range(0, 40, 4), limit=limit)
        assert limit / 4 < sum(map(len, pictures.values())) <= limit
        assert len(pictures) >= count
    whole = record(57_600, [f"{number} <\"&'>" * 2000 for number in range(300)])
    report.write(whole, film, path)  # the film is shorter than its record: pictures behind its end are left out
    assert path.stat().st_size < 3_000_000 - 1_800_000  # without most pictures
    page = Page(path.read_text(encoding="utf-8"))
    assert "And 100 more shots, which the film's .json lists." in page.texts
    assert len(page.all("tr")) < 400
    assert not any(len(text) > 5000 for text in page.texts if "{" not in text)  # but the style sheet


def test_the_command_makes_the_same_film_whatever_it_is_called() -> None:
    assert report.command(record(120, ["a"])) == "rivulet replay out.mp4 --check"
    assert shlex.split(report.command(record(120, ["a"], file="-x y.mp4")))[2] == "./-x y.mp4"


def test_films_that_ended_early_and_have_no_drift_are_reported(tmp_path: Path) -> None:
    film = write_film(tmp_path / "out.mp4", grey(24))
    early = record(24, ["one", "never begun"]).model_copy(update={"status": "ended early by <Ctrl-C>"})
    early = early.model_copy(update={"shots": [early.shots[0], early.shots[1].model_copy(update={"actual": far()})]})
    page = Page(report.page(early, film, tmp_path / "out.html"))
    assert "This film ended early by <Ctrl-C>." in page.texts
    assert "the film is too short to tell" in page.texts
    assert len([tag for tag in page.all("img") if not tag["alt"]]) == 1
    with pytest.raises(FileNotFoundError):
        report.write(early, tmp_path / "gone.mp4", tmp_path / "gone.html")
    (tmp_path / "text.mp4").write_text("this is not a film")
    with pytest.raises(ValueError, match=r"text\.mp4 is not a film"):
        report.write(early, tmp_path / "text.mp4", tmp_path / "gone.html")
    assert not [file.name for file in tmp_path.iterdir() if "gone" in file.name]


def far() -> sidecar.TimecodeRecord:
    return sidecar.TimecodeRecord(second=10, frame=160, latent=40, chunk=13)


def points(values: list[float | None]) -> list[Point]:
    return [Point(float(number), number + 1.0, value) for number, value in enumerate(values)]


def test_thinning_keeps_the_mean_and_every_spike() -> None:
    values: list[float | None] = [1.0] * 4800
    values[2001], values[3333] = 9.0, None
    thinned = thin(points(values), 4800)
    assert len(thinned) == BINS
    assert (thinned[0].start, thinned[-1].end) == (0, 4800)
    assert max(point.high or 0 for point in thinned) == 9
    assert [point.value for point in thinned if point.high == 9] == [1 + 8 / 20]
    assert thin(points(values[:100]), 100) == points(values[:100])


def coordinates(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def test_a_line_goes_through_its_values_and_breaks_where_nothing_was_measured() -> None:
    plot = Plot("Speed", "fps", "", 5, {"a": points([1, 2, None, 4, 5])}, [(2.0, "shot 2")])
    page = Page(draw(plot))
    lines = [tag["d"] or "" for tag in page.all("path") if tag["class"] == "line c1"]
    assert [coordinates(line) for line in lines] == [
        [(0, 200), (100, 200), (300, 160), (400, 160)],
        [(600, 80), (700, 80), (900, 40), (1000, 40)],
    ]  # of 1000 x 240, with an axis to 6
    assert [coordinates(tag["d"] or "") for tag in page.all("path") if tag["class"] == "mark"] == [
        [(400, 0), (400, 240)]
    ]
    assert "shot 2" in page.texts
    empty = Page(draw(Plot("Drift", "", "too short", 5, {"a": points([None, None])})))
    assert not empty.all("svg")


def test_stacked_areas_add_up() -> None:
    plot = Plot("Time", "s", "", 2, {"a": points([1, 2]), "b": points([3, 2])}, stacked=True)
    page = Page(draw(plot))
    areas = {str(tag["class"]): coordinates(tag["d"] or "") for tag in page.all("path") if "area" in str(tag["class"])}
    top = {name: [240 - y for _, y in area[1:3]] for name, area in areas.items()}
    unit = top["area c1"][0]
    assert top["area c1"] == pytest.approx([unit, 2 * unit])
    assert top["area c2"] == pytest.approx([4 * unit, 4 * unit])


def test_pictures_are_spread_evenly() -> None:
    assert spaced(range(10), 20) == list(range(10))
    assert spaced(range(100), 4) == [12, 37, 62, 87]
