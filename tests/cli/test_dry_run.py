"""What `--dry_run` prints and hands to programs."""

from __future__ import annotations

import io
import json

from rich.console import Console

from app.config.lengths import Length, Rhythm
from app.render.dry_run import Estimate, dry_run_data, dry_run_lines
from app.script.shot_list import parse_native
from app.script.timeline import Timeline, resolve
from tests.script.test_shot_list import FULL

ESTIMATE = Estimate(75, disk_bytes=3_200_000, film_bytes=1_500_000, memory_bytes=504 * 2**20, basis="measured here")


def timeline(text: str = FULL, length: Length | None = None) -> Timeline:
    return resolve(parse_native(text, "shots.yaml"), length=length, fps=16, rhythm=Rhythm(3, 3))


def printed(film: Timeline, *notes: str) -> str:
    file = io.StringIO()
    console = Console(file=file, width=200, markup=False)
    for line in dry_run_lines(film, ESTIMATE, notes=notes):
        console.print(line)
    return file.getvalue()


def test_every_shot_is_shown_as_asked_and_as_given() -> None:
    text = printed(timeline())
    assert (
        "shot 2  begins t=8.06s  frame 129  latent 33  chunk 11, 16 chunks, soft 4  (asked for t=8.00s, frame 128)"
    ) in text.splitlines()
    assert text.splitlines()[1].strip().startswith("A red fox")
    assert "guidance_scale 3" in text
    assert "3 shots, 480 frames at 16 fps = 30.00 s, 123 latent frames, 41 chunks." in text
    assert (
        "About 1m15s to render, 3.2 MB on disk meanwhile and 1.5 MB in the end, 528.5 MB of memory (measured here)."
        in text
    )


def test_every_chunk_of_a_blend_has_its_weights() -> None:
    text = printed(timeline())
    for weight in ("0.200 The fox stops", "0.800 A red fox", "0.400 The fox", "0.600 A red", "0.800 The fox stops"):
        assert weight in text
    assert "0.700" not in text  # the third shot is a re-cache: no blend


def test_the_same_for_programs_is_plain_json() -> None:
    data = dry_run_data(timeline(), ESTIMATE, notes=["a note"])
    assert json.loads(json.dumps(data)) == data
    second = data["shots"][1]
    assert second["requested"] == {"second": 8.0, "frame": 128, "latent": 32, "chunk": 10}
    assert second["actual"] == {"second": 8.0625, "frame": 129, "latent": 33, "chunk": 11}
    assert (second["chunks"], second["transition"]) == (16, {"kind": "soft", "chunks": 4})
    assert data["shots"][2]["parameters"] == {"guidance_scale": 3.0}
    assert data["shots"][2]["prompt"][1][1] == 0.3
    assert [(blend["shot"], blend["chunk"]) for blend in data["blends"]] == [(2, chunk) for chunk in range(11, 15)]
    assert [round(blend["weights"][0][1], 6) for blend in data["blends"]] == [0.2, 0.4, 0.6, 0.8]
    assert data["totals"] == {"shots": 3, "seconds": 30.0, "frames": 480, "latent_frames": 123, "chunks": 41}
    assert data["estimate"]["basis"] == "measured here"
    assert data["notes"] == ["a note"]


def test_without_blends_notes_or_estimate_there_are_only_the_shots_and_the_totals() -> None:
    film = timeline("shots: [{prompt: a fox}]")
    assert len(dry_run_lines(film)) == 3
    data = dry_run_data(film)
    assert (data["blends"], data["estimate"], data["notes"]) == ([], None, [])


def test_hostile_prompts_cannot_move_the_cursor_or_style_the_table() -> None:
    text = printed(timeline('shots: [{prompt: "[red]a\\e[2J fox\\nruns"}]'), "from \x1b[2J")
    assert "\x1b" not in text
    assert "[red]a\\x1b[2J fox runs" in text
