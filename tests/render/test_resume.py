"""A render that is killed anywhere goes on to be the film it would have been; and films replay from what they carry."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from app.errors import RenderFailure, UsageMistake
from app.loading.engine_request import EngineRequest
from app.record import sidecar
from app.record.journal import Journal
from app.render.progress import Progress
from app.render.replay import read_record, replay
from app.script.script import Script
from pipelines.presets import PRESETS
from pipelines.types import Chunk, Controls
from tests.app_doubles import Opener
from tests.media.test_video import decode
from tests.render.test_render import at, film_request, run

LENGTH = "150f"  # 13 chunks, segments of 3


def whole_film(folder: Path) -> bytes:
    folder.mkdir()
    run(film_request(folder, duration=LENGTH))
    return (folder / "out.mp4").read_bytes()


def killed_films(folder: Path, *, chunks: int = 13) -> list[Path]:
    """What `kill -9` leaves just before each chunk: copies of everything on the disk."""
    films: list[Path] = []
    folder.mkdir()

    def copy(index: int) -> None:
        films.append(folder.with_name(f"killed-{index}"))
        shutil.copytree(folder, films[-1])

    run(film_request(folder, duration=LENGTH), Opener(copy))
    assert len(films) == chunks
    return films


def rewrite(journal: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change what a journal says and make its hashes right again."""
    bodies = [json.loads(line) for line in journal.read_text().splitlines()]
    for body in bodies:
        body.pop("chain")
    change(bodies)
    lines, chain = "", ""
    for body in bodies:
        text = json.dumps(body, separators=(",", ":"))
        chain = hashlib.sha256((chain + text).encode()).hexdigest()
        lines += f'{text[:-1]},"chain":"{chain}"}}\n'
    journal.write_text(lines)


def hashes(folder: Path) -> list[str]:
    return [chunk.sha256 for chunk in sidecar.read(folder / "out.json").chunks]


def test_a_film_killed_before_any_chunk_goes_on_to_be_the_same_file(tmp_path: Path) -> None:
    expected = whole_film(tmp_path / "whole")
    for index, folder in enumerate(killed_films(tmp_path / "film")):
        opener = Opener()
        code, printed = run(film_request(folder, duration=LENGTH, resume=True), opener)
        assert code == 0
        assert (folder / "out.mp4").read_bytes() == expected
        assert hashes(folder) == hashes(tmp_path / "whole")
        assert sorted(file.name for file in folder.iterdir()) == ["out.json", "out.mp4", "out.vtt"]
        begun = index // 3 * 3  # the segment that the kill fell into
        assert len(opener.streams[0].asked) == 13 - begun
        assert ("starting from the beginning" in printed) == (begun == 0)


def test_a_film_cut_at_any_byte_goes_on_to_be_the_same_file(tmp_path: Path) -> None:
    expected = whole_film(tmp_path / "whole")
    killed = killed_films(tmp_path / "film")[11]
    size = (killed / "out.part.mp4").stat().st_size
    lines = (killed / "out.part" / "journal.jsonl").stat().st_size
    rng = np.random.default_rng(5)
    for number in range(12):
        folder = tmp_path / f"cut-{number}"
        shutil.copytree(killed, folder)
        with (folder / "out.part.mp4").open("r+b") as file:
            file.truncate(int(rng.integers(size)))
        with (folder / "out.part" / "journal.jsonl").open("r+b") as file:
            file.truncate(int(rng.integers(lines)))
        assert run(film_request(folder, duration=LENGTH, resume=True))[0] == 0
        assert (folder / "out.mp4").read_bytes() == expected


def test_what_a_kill_leaves_plays_but_for_the_last_frame(tmp_path: Path) -> None:
    for index, folder in enumerate(killed_films(tmp_path / "film")[1:], 1):
        assert len(decode(folder / "out.part.mp4")) >= 12 * index - 3 - 1


def test_only_the_last_snapshots_stay(tmp_path: Path) -> None:
    folder = killed_films(tmp_path / "film")[11]
    assert sorted(file.name for file in (folder / "out.part").glob("*.safetensors")) == [
        "00000006.safetensors",
        "00000009.safetensors",
    ]


def test_a_damaged_snapshot_costs_a_segment_and_not_the_film(tmp_path: Path) -> None:
    expected = whole_film(tmp_path / "whole")
    folder = killed_films(tmp_path / "film")[11]
    (folder / "out.part" / "00000009.safetensors").write_text("5")
    opener = Opener()
    _, printed = run(film_request(folder, duration=LENGTH, resume=True), opener)
    assert "is damaged" in printed
    assert "Going on from chunk 6" in printed
    assert (folder / "out.mp4").read_bytes() == expected
    assert len(opener.streams[0].asked) == 7


def test_a_chunk_that_comes_out_differently_stops_the_film(tmp_path: Path) -> None:
    folder = killed_films(tmp_path / "film")[11]

    class Drifting(Opener):
        def __call__(self, request: EngineRequest, seed: int):
            opened = super().__call__(request, seed)
            stream = self.streams[-1]
            honest = stream.next_chunk

            def changed(controls: Controls, *, decode: bool = True) -> Chunk:
                return replace(honest(controls, decode=decode), sha256="f" * 64)

            stream.next_chunk = changed  # type: ignore[method-assign]
            return opened

    with pytest.raises(RenderFailure, match="Chunk 9 came out differently"):
        run(film_request(folder, duration=LENGTH, resume=True), Drifting())


def test_a_second_resume_still_knows_what_the_chunks_were(tmp_path: Path) -> None:
    folder = killed_films(tmp_path / "film")[11]
    journal = folder / "out.part" / "journal.jsonl"

    def change(bodies: list[dict[str, Any]]) -> None:
        bodies[-1]["chunk"]["sha256"] = "0" * 64  # as if another processor had made it

    rewrite(journal, change)
    for _ in range(3):
        with pytest.raises(RenderFailure, match="Chunk 10 came out differently"):
            run(film_request(folder, duration=LENGTH, resume=True))
    assert not (folder / "out.mp4").exists()


def test_ctrl_c_before_the_first_new_chunk_leaves_what_there_was(tmp_path: Path) -> None:
    expected = whole_film(tmp_path / "whole")
    folder = killed_films(tmp_path / "film")[11]

    before = (folder / "out.part.mp4").read_bytes()

    def signal_first(*arguments: Any, **options: Any) -> Progress:  # it is made just before the loop
        signal.raise_signal(signal.SIGINT)
        return Progress(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.render.render.Progress", signal_first)
        code, printed = run(film_request(folder, duration=LENGTH, resume=True))
    assert code == 130
    assert "no file has changed" in printed
    assert (folder / "out.part.mp4").read_bytes() == before
    assert not (folder / "out.mp4").exists()
    assert run(film_request(folder, duration=LENGTH, resume=True))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


def test_ctrl_c_gives_a_film_that_can_still_go_on(tmp_path: Path) -> None:
    expected = whole_film(tmp_path / "whole")
    folder = tmp_path / "film"
    folder.mkdir()
    code, printed = run(film_request(folder, duration=LENGTH), at(7, lambda: signal.raise_signal(signal.SIGINT)))
    assert code == 130
    assert "--resume goes on" in printed
    assert len(decode(folder / "out.mp4")) == 93
    with pytest.raises(UsageMistake, match="--resume"):
        run(film_request(folder, duration=LENGTH))
    assert run(film_request(folder, duration=LENGTH, resume=True))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_being_asked_to_end_finishes_the_file_too(tmp_path: Path, number: signal.Signals, ended: int) -> None:
    before = signal.getsignal(number)
    code, _ = run(film_request(tmp_path, duration=LENGTH), at(4, lambda: signal.raise_signal(number)))
    assert code == ended
    assert len(decode(tmp_path / "out.mp4")) == 57
    assert sidecar.read(tmp_path / "out.json").status == f"ended early by {number.name}"
    assert signal.getsignal(number) is before
    assert run(film_request(tmp_path, duration=LENGTH, resume=True))[0] == 0
    assert (tmp_path / "out.mp4").read_bytes() == whole_film(tmp_path / "whole")


def test_nohup_is_heeded(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(film_request(tmp_path), at(1, lambda: signal.raise_signal(signal.SIGHUP)))[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_resuming_needs_no_prompts_and_refuses_others(tmp_path: Path) -> None:
    expected = whole_film(tmp_path / "whole")
    killed = killed_films(tmp_path / "film")[8]
    alone = tmp_path / "alone"
    shutil.copytree(killed, alone)
    request = replace(
        film_request(alone, duration=LENGTH, resume=True), script=Script(()), length=None, seed=42, crf=18
    )
    assert run(request)[0] == 0
    assert (alone / "out.mp4").read_bytes() == expected
    for change, said in (
        ({"seed": 8}, "seed 7, not 8"),
        ({"crf": 20}, "crf 18, not 20"),
        ({"engine": EngineRequest(PRESETS["longlive"])}, "preset embedded, not longlive"),
    ):
        with pytest.raises(UsageMistake, match=said):
            run(replace(film_request(killed, duration=LENGTH, resume=True), **change))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageMistake, match="begun with script"):
        run(film_request(killed, "a green ring", duration=LENGTH, resume=True))
    assert run(film_request(killed, duration=LENGTH, resume=True))[0] == 0  # the refusals cost nothing
    assert (killed / "out.mp4").read_bytes() == expected


def test_resuming_takes_the_threads_the_film_was_begun_with(tmp_path: Path) -> None:
    killed = killed_films(tmp_path / "film")[8]
    asked: list[int | None] = []

    class Listening(Opener):
        def __call__(self, request: EngineRequest, seed: int):
            asked.append(request.threads)
            return super().__call__(request, seed)

    run(film_request(killed, duration=LENGTH, resume=True), Listening())
    assert asked == [1]


def test_a_finished_film_is_not_made_again(tmp_path: Path) -> None:
    before = whole_film(tmp_path / "film")
    opener = Opener()
    code, printed = run(film_request(tmp_path / "film", duration=LENGTH, resume=True), opener)
    assert (code, opener.streams) == (0, [])
    assert "whole already" in printed
    assert (tmp_path / "film" / "out.mp4").read_bytes() == before


def test_a_second_render_of_the_same_film_is_refused(tmp_path: Path) -> None:
    request = film_request(tmp_path)

    def second() -> None:
        with pytest.raises(UsageMistake, match="Another rivulet is rendering this film"):
            run(replace(request, overwrite=True))

    assert run(request, at(1, second))[0] == 0


@pytest.mark.parametrize(
    "journal",
    [b"garbage\n", b"{}\n", b'{"chunk": 3}\n', b"\xff\xfe\n", b"[1]\n", b'{"begun": {"format": 99}}\n', b"\0\0\0\n"],
)
def test_a_damaged_journal_is_one_sentence_and_can_be_overwritten(tmp_path: Path, journal: bytes) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "journal.jsonl").write_bytes(journal)
    with pytest.raises(UsageMistake, match=r"line 1: .*--overwrite"):
        run(film_request(tmp_path, resume=True))
    assert run(film_request(tmp_path, overwrite=True))[0] == 0


@pytest.mark.parametrize("number", [0, 1, 3, "2"])
def test_a_journal_of_another_version_is_not_gone_on_with(tmp_path: Path, number: object) -> None:
    folder = killed_films(tmp_path / "film")[8]
    path = folder / "out.part" / "journal.jsonl"
    first, *rest = path.read_text().splitlines()
    header = json.loads(first)
    header["begun"]["format"] = number
    path.write_text("\n".join([json.dumps(header), *rest]) + "\n")
    with pytest.raises(UsageMistake, match=r"line 1: another version of Rivulet wrote this.*--overwrite"):
        run(film_request(folder, duration=LENGTH, resume=True))


def test_a_journal_leaves_no_folder_where_nothing_began(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.part") as journal:
        assert journal.read() is None
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ replay


def again(path: Path, output: Path, *, check: bool = True) -> tuple[int, str]:
    printed = io.StringIO()
    console = Console(file=printed, width=100)
    code = replay(path, output, check=check, overwrite=False, console=console, opener=Opener())
    return code, printed.getvalue()


@pytest.mark.parametrize("name", ["out.mp4", "out.json"])
def test_a_film_is_made_again_from_what_it_carries(tmp_path: Path, name: str) -> None:
    whole_film(tmp_path / "film")
    code, printed = again(tmp_path / "film" / name, tmp_path / "again.mp4")
    assert code == 0
    assert "The same film: sha256" in printed
    assert (decode(tmp_path / "again.mp4") == decode(tmp_path / "film" / "out.mp4")).all()


def test_a_film_alone_is_enough(tmp_path: Path) -> None:
    whole_film(tmp_path / "film")
    shutil.move(tmp_path / "film" / "out.mp4", tmp_path / "moved.mp4")
    assert again(tmp_path / "moved.mp4", tmp_path / "again.mp4")[0] == 0
    assert read_record(tmp_path / "moved.mp4").film.frames == 150


def test_a_film_that_ended_early_is_made_again_as_far_as_it_went(tmp_path: Path) -> None:
    run(film_request(tmp_path, duration=LENGTH), at(9, lambda: signal.raise_signal(signal.SIGINT)))
    assert again(tmp_path / "out.mp4", tmp_path / "again.mp4")[0] == 0
    assert len(decode(tmp_path / "again.mp4")) == 117


def test_another_film_is_noticed(tmp_path: Path) -> None:
    whole_film(tmp_path / "film")
    record = json.loads((tmp_path / "film" / "out.json").read_text())
    record["chunks"][4]["sha256"] = "0" * 64
    record["film"]["sha256"] = "0" * 64
    record["versions"]["torch"] = "1.0"
    (tmp_path / "other.json").write_text(json.dumps(record))
    code, printed = again(tmp_path / "other.json", tmp_path / "again.mp4")
    assert code == 1
    assert "The first chunk that differs is 4" in printed
    assert "torch 1.0 then" in printed


@pytest.mark.parametrize(
    ("key", "value"), [("format", 2), ("format", 5), ("later", True), ("seed", None), ("chunks", [{}])]
)
def test_a_sidecar_of_another_version_is_named_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    whole_film(tmp_path / "film")
    record = json.loads((tmp_path / "film" / "out.json").read_text()) | {key: value}
    (tmp_path / "other.json").write_text(json.dumps(record))
    with pytest.raises(
        UsageMistake, match=rf"other\.json: {key}.*another version of Rivulet \(this one reads format 3"
    ):
        again(tmp_path / "other.json", tmp_path / "again.mp4")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{}", "another version"),
        ("a.json", b"garbage", "another version"),
        ("a.json", b'{"format": 1}', "another version"),
        ("a.json", b"\xff\0", "another version"),
        ("a.mp4", b"not a film", "not a film"),
        ("a.mp4", b"", "not a film"),
        ("missing.mp4", None, "no file"),
    ],
)
def test_what_cannot_be_replayed_is_one_sentence(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageMistake, match=said) as caught:
        again(tmp_path / name, tmp_path / "again.mp4")
    assert "\n" not in str(caught.value)


def test_a_film_of_others_carries_no_settings(tmp_path: Path) -> None:
    from tests.media.test_video import picture, write_film

    write_film(tmp_path / "other.mp4", picture(12))
    with pytest.raises(UsageMistake, match="carries no settings of Rivulet"):
        again(tmp_path / "other.mp4", tmp_path / "again.mp4")
