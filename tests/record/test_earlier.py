"""Records of an earlier build open: its films replay and go on, and its session logs and checkpoints are read.

What lies in data/ was written by version 0.1.0 before its rooms and classes had their present names.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from app.config.lengths import Rhythm
from app.live.checkpoint import read_checkpoint
from app.live.prompts import PromptSchedule
from app.media.join import read_metadata
from app.record import sidecar
from app.record.journal import Journal
from app.record.provenance import provenance_of, provenance_of_log
from app.record.session_log import read_log
from app.render.replay import read_record, replay
from app.render.replay_log import replay_log
from pipelines.types import Transition
from tests.app_doubles import Opener
from tests.live_tiny import Clock, TinyModel
from tests.render.test_render import film_request, run
from tests.render.test_resume import hashes, rewrite

DATA = Path(__file__).parent / "data"


def copy(name: str, folder: Path) -> Path:
    return shutil.copytree(DATA / name, folder / name)


def test_a_film_and_its_json_open_and_say_the_same(tmp_path: Path) -> None:
    film = copy("finished", tmp_path)
    record = sidecar.read(film / "out.json")
    assert (record.status, record.film.frames, len(record.chunks)) == ("whole", 60, 6)
    carried = read_record(film / "out.mp4")
    assert (carried.seed, carried.film.sha256) == (7, record.film.sha256)
    assert carried.config.script == record.config.script
    provenance = provenance_of(record, "out.json")
    assert [shot.prompt for shot in provenance.script.shots] == ["a red ball", "a blue star"]


def test_a_film_is_made_again_chunk_for_chunk(tmp_path: Path) -> None:
    film = copy("finished", tmp_path)
    console = Console(file=io.StringIO())
    replay(film / "out.json", tmp_path / "again.mp4", check=False, overwrite=False, console=console, opener=Opener())
    again = sidecar.read(tmp_path / "again.json")
    assert [chunk.sha256 for chunk in again.chunks] == hashes(film)


def test_a_killed_film_goes_on_to_its_end(tmp_path: Path) -> None:
    film, fresh = copy("killed", tmp_path), tmp_path / "fresh"
    fresh.mkdir()
    run(film_request(fresh, duration="60f"))
    now = sidecar.read(fresh / "out.json")

    def onto_this_machine(bodies: list[dict[str, Any]]) -> None:
        """A film goes on only under the libraries, the processor and the preset that it was begun with."""
        begun = bodies[0]["begun"]
        begun |= {"versions": now.versions, "machine": now.machine}
        begun["config"] |= {"knobs": now.config.knobs, "system": now.config.system}

    with Journal(film / "out.part") as journal:
        history = journal.read()
    assert history is not None
    assert (history.damage, len(history.chunks), history.header.seed) == ("", 4, 7)
    rewrite(film / "out.part" / "journal.jsonl", onto_this_machine)
    opener = Opener()
    code, printed = run(film_request(film, duration="60f", resume=True), opener)
    assert (code, "Going on from chunk 3" in printed, len(opener.streams[0].asked)) == (0, True, 3)
    assert hashes(film) == hashes(DATA / "finished")


def test_a_session_log_is_read_and_made_again(tmp_path: Path) -> None:
    log = read_log(DATA / "live" / "session.jsonl")
    assert [chunk.index for chunk in log.chunks] == list(range(9))
    assert [chunk.controls.transition.kind for chunk in log.chunks] == ["recache"] * 7 + ["soft"] * 2
    assert [chunk.shown for chunk in log.chunks[3:6]] == [12, 4, 12]  # a cut took eight, a rewind came behind it
    provenance = provenance_of_log(log, "session.jsonl")
    assert (provenance.kind, provenance.seed, provenance.frames) == ("take", 5, 97)
    film = tmp_path / "film.mp4"
    console = Console(file=io.StringIO())
    opener = TinyModel(Clock())
    code = replay_log(
        DATA / "live" / "session.jsonl", film, check=False, overwrite=False, console=console, opener=opener
    )
    assert code == 0
    assert "a red fox" not in read_metadata(film)["title"]


def test_a_checkpoint_is_read_and_its_prompts_go_on() -> None:
    checkpoint = read_checkpoint(DATA / "live", 1e12)
    assert (checkpoint.chunk, checkpoint.branch, checkpoint.seq_from) == (9, 1, 121)
    schedule = PromptSchedule(checkpoint.course.past[0].controls, 16, Rhythm(3, 3))
    schedule.read(checkpoint.course, checkpoint.chunk, 0.0)
    assert schedule.controls.prompt == (("a blue bird", 1.0), ("a wolf", 0.5))
    assert schedule.controls.transition == Transition("soft", 1)
    assert [item.prompt for item in schedule.queue] == ["a red fox runs"]
