"""What lies on the disk is not believed: whatever happened to it, the film comes out as it should, or a sentence."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli.main import main
from app.errors import RenderFailure, UsageMistake, explain
from app.jobs.process import begin
from app.media.join import read_metadata
from app.media.stills import sink_kind
from app.media.subtitles import numbered
from app.record import sidecar
from app.record.request import RenderRequest
from app.render.interrupt import Interrupt
from app.script.script import Script
from benchmarks.robust import damage
from tests.app_doubles import Opener, save_tiny_model
from tests.media.test_joining import tone
from tests.media.test_video import decode
from tests.render.test_render import at, film_request, run
from tests.render.test_resume import LENGTH, hashes, killed_films, rewrite, whole_film

ROOT = Path(__file__).resolve().parents[2]


def alone(folder: Path) -> RenderRequest:
    """`rivulet render --resume -o out.mp4`: the journal knows the rest."""
    return replace(film_request(folder, resume=True), script=Script(()), length=None, seed=42)


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "out.part" / "journal.jsonl").read_bytes().splitlines(keepends=True)


def set_lines(folder: Path, lines: list[bytes]) -> None:
    (folder / "out.part" / "journal.jsonl").write_bytes(b"".join(lines))


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder, but for the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a kill before chunk 11 of 13 left: segments begin at 3, 6 and 9, the last two have snapshots."""
    return killed_films(tmp_path_factory.mktemp("killed") / "film")[11]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of another film."""
    folder = tmp_path_factory.mktemp("other") / "film"
    folder.mkdir()
    left = folder.with_name("left")

    def copy() -> None:
        shutil.copytree(folder, left)

    run(film_request(folder, "a green ring", "a pink heart", duration=LENGTH, seed=9), at(10, copy))
    return left


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return whole_film(tmp_path_factory.mktemp("whole") / "film")


@pytest.fixture
def folder(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "film"))


# ------------------------------------------------------------------ the growing film


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]


def zero(data: bytes, rng: np.random.Generator) -> bytes:
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 3000))
    return data[:place] + b"\0" * len(data[place : place + length]) + data[place + length :]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def cut_out(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[place + int(rng.integers(1, 500)) :]


def append(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 5000)))


def double(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + data[place // 2 :]


DAMAGES = (flip, zero, cut, cut_out, append, double)


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("where", ["out.part.mp4", "out.part/journal.jsonl", "out.part/00000009.safetensors"])
@pytest.mark.parametrize("prompts", [True, False], ids=["asked", "alone"])
def test_a_damaged_file_costs_time_and_never_the_film(
    killed: Path,
    expected: bytes,
    tmp_path: Path,
    where: str,
    harm: Callable[[bytes, np.random.Generator], bytes],
    prompts: bool,
) -> None:
    rng = np.random.default_rng([len(where), DAMAGES.index(harm), prompts])
    for number in range(6):
        folder = Path(shutil.copytree(killed, tmp_path / str(number)))
        path = folder / where
        path.write_bytes(harm(path.read_bytes(), rng))
        before = contents(folder)
        request = film_request(folder, duration=LENGTH, resume=True) if prompts else alone(folder)
        try:
            code, _ = run(request)
        except (UsageMistake, RenderFailure) as error:
            text, code = explain(error)
            assert "\n" not in text
            assert where.endswith(".jsonl"), text  # all else can be made again from what the journal tells
            assert "line 1" in text or "its first line" in text
            assert contents(folder) == before
        else:
            assert (folder / "out.mp4").read_bytes() == expected
            assert hashes(folder)
        assert code in (0, 1, 2)


@pytest.mark.parametrize(("segment", "start"), [(0, 0), (1, 0), (2, 6)])
def test_what_does_not_match_is_said_and_made_again(folder: Path, expected: bytes, segment: int, start: int) -> None:
    part = folder / "out.part.mp4"
    ends = [json.loads(line)["segment"]["bytes"] for line in lines_of(folder) if line.startswith(b'{"segment"')]
    begins = [0, *ends]
    data = bytearray(part.read_bytes())
    data[(begins[segment] + ends[segment]) // 2] ^= 64
    part.write_bytes(data)
    opener = Opener()
    code, printed = run(alone(folder), opener)
    assert code == 0
    frames = [0, 33, 69, 105]
    assert f"is damaged between frame {frames[segment]} and frame {frames[segment + 1]}" in printed
    assert len(opener.streams[0].asked) == 13 - start  # only the last two segments have snapshots
    assert (folder / "out.mp4").read_bytes() == expected


@pytest.mark.parametrize("what", ["part", "snapshots", "both snapshots and part"])
def test_files_of_another_film_are_not_gone_on_with(folder: Path, other: Path, expected: bytes, what: str) -> None:
    if "part" in what:
        shutil.copy(other / "out.part.mp4", folder)
    if "snapshots" in what:
        for number, snapshot in zip((6, 9), sorted((other / "out.part").glob("*.safetensors")), strict=True):
            shutil.copy(snapshot, folder / "out.part" / f"{number:08d}.safetensors")
    if what.startswith("both"):
        before = contents(folder)
        with pytest.raises(UsageMistake, match=r"is not the journal of out\.part\.mp4"):
            run(alone(folder))
        assert contents(folder) == before
        assert run(film_request(folder, duration=LENGTH, resume=True))[0] == 0
    else:
        assert run(alone(folder))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


def test_the_journal_of_another_film_is_refused_with_prompts_and_without(
    folder: Path, other: Path, expected: bytes
) -> None:
    right = lines_of(folder)
    set_lines(folder, lines_of(other))
    before = contents(folder)
    with pytest.raises(UsageMistake, match=r"journal\.jsonl is not the journal of out\.part\.mp4.*Put the right"):
        run(alone(folder))
    with pytest.raises(UsageMistake, match="was begun with") as caught:
        run(film_request(folder, duration=LENGTH, resume=True))
    assert "\n" not in str(caught.value)
    assert contents(folder) == before
    set_lines(folder, right)
    assert run(alone(folder))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


def test_a_film_killed_in_its_first_segment_knows_its_journal(tmp_path: Path, other: Path) -> None:
    early = killed_films(tmp_path / "film")[2]
    set_lines(early, [line for line in lines_of(other) if b'"index":2' not in line][:3])
    with pytest.raises(UsageMistake, match=r"is not the journal of out\.part\.mp4"):
        run(alone(early))


# ------------------------------------------------------------------ the journal


def test_lines_that_are_gone_or_elsewhere_are_noticed(killed: Path, expected: bytes, tmp_path: Path) -> None:
    whole = lines_of(killed)
    count = len(whole)
    for number in range(1, count - 1):
        for name, lines in (
            ("gone", whole[:number] + whole[number + 1 :]),
            ("twice", [*whole[: number + 1], *whole[number:]]),
            ("moved", [*whole[:number], whole[number + 1], whole[number], *whole[number + 2 :]]),
            ("ended", whole[:number]),
        ):
            if number % 3 and name != "gone":
                continue
            folder = Path(shutil.copytree(killed, tmp_path / f"{name}-{number}"))
            set_lines(folder, lines)
            code, printed = run(alone(folder))
            assert code == 0
            assert ("is damaged from line" in printed) == (name != "ended")
            assert (folder / "out.mp4").read_bytes() == expected


def test_a_settings_line_that_was_changed_is_not_believed(folder: Path) -> None:
    first, *rest = lines_of(folder)
    set_lines(folder, [first.replace(b'"seed":7', b'"seed":8'), *rest])
    before = contents(folder)
    with pytest.raises(UsageMistake, match=r"line 1: .*Nothing has been changed.*--overwrite"):
        run(alone(folder))
    assert contents(folder) == before


def test_a_torn_last_line_is_what_a_kill_leaves_and_nothing_to_tell(folder: Path, expected: bytes) -> None:
    lines = lines_of(folder)
    set_lines(folder, [*lines[:-1], lines[-1][:40]])
    code, printed = run(alone(folder))
    assert code == 0
    assert "damaged" not in printed
    assert (folder / "out.mp4").read_bytes() == expected


def test_a_first_line_that_was_cut_off_takes_the_prompts_again(folder: Path, expected: bytes) -> None:
    set_lines(folder, [lines_of(folder)[0][:90]])
    before = contents(folder)
    with pytest.raises(UsageMistake, match=r"was cut off in its first line.*Give the film's prompts"):
        run(alone(folder))
    assert contents(folder) == before
    assert run(film_request(folder, duration=LENGTH, resume=True))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


def test_chunks_that_do_not_count_up_are_refused(folder: Path) -> None:
    def leave_out(bodies: list[dict[str, Any]]) -> None:
        del bodies[2]

    rewrite(folder / "out.part" / "journal.jsonl", leave_out)
    with pytest.raises(UsageMistake, match="chunk 1 is not where it belongs"):
        run(alone(folder))


def test_another_script_is_refused_where_it_differs(folder: Path) -> None:
    with pytest.raises(UsageMistake, match=r'script … .*blue star".*, not … .*yellow \\"moon') as caught:
        run(film_request(folder, "a red ball", 'a yellow "moon\nat night"', duration=LENGTH, resume=True))
    assert len(str(caught.value).splitlines()) == 1


# ------------------------------------------------------------------ the version before


def as_before(folder: Path) -> None:
    """Write the journal as the version before did: no hashes of lines and segments, and no name."""
    bodies = [json.loads(line) for line in lines_of(folder)]
    for body in bodies:
        body.pop("chain")
        for gone in ("film", "left_out") if "begun" in body else ("film_sha256",) if "segment" in body else ():
            body[next(iter(body))].pop(gone)
        if "begun" in body:
            body["begun"]["format"] = 2
    set_lines(folder, [json.dumps(body, separators=(",", ":")).encode() + b"\n" for body in bodies])


def test_a_film_of_the_version_before_goes_on_and_what_cannot_be_compared_is_said(
    folder: Path, expected: bytes
) -> None:
    as_before(folder)
    opener = Opener()
    code, printed = run(alone(folder), opener)
    assert code == 0
    assert "its frames were counted and the next chunk is compared, its other pictures" in printed
    assert len(opener.streams[0].asked) == 4
    assert (folder / "out.mp4").read_bytes() == expected


def test_settings_that_were_changed_in_the_version_before_show_in_the_next_chunk(tmp_path: Path) -> None:
    folder = killed_films(tmp_path / "film")[9]
    as_before(folder)
    first, *rest = lines_of(folder)
    set_lines(folder, [first.replace(b'"seed":7', b'"seed":8'), *rest])
    before = (folder / "out.part.mp4").stat().st_size
    opener = Opener()
    with pytest.raises(RenderFailure, match="Chunk 6 came out differently"):
        run(alone(folder), opener)
    assert (folder / "out.part.mp4").stat().st_size >= before


def test_a_film_of_the_version_before_is_counted(folder: Path, expected: bytes) -> None:
    as_before(folder)
    part = folder / "out.part.mp4"
    data = bytearray(part.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 200] = bytes(200)
    part.write_bytes(data)
    code, printed = run(alone(folder))
    assert code == 0
    assert "is damaged between frame" in printed
    assert (folder / "out.mp4").read_bytes() == expected


def test_killed_again_a_film_of_the_version_before_has_hashes(folder: Path, expected: bytes, tmp_path: Path) -> None:
    as_before(folder)
    again = tmp_path / "again"
    run(alone(folder), at(11, lambda: shutil.copytree(folder, again)))
    assert all(json.loads(line)["chain"] for line in lines_of(again))
    code, printed = run(alone(again))
    assert code == 0
    assert "earlier version" not in printed
    assert (again / "out.mp4").read_bytes() == expected


# ------------------------------------------------------------------ nothing is lost meanwhile


def test_the_film_never_gets_shorter_while_it_is_mended(folder: Path, expected: bytes) -> None:
    part = folder / "out.part.mp4"
    data = bytearray(part.read_bytes())
    data[2000] ^= 1  # the first segment: all is made again
    part.write_bytes(data)
    sizes: list[int] = []
    assert run(alone(folder), Opener(lambda _: sizes.append(part.stat().st_size)))[0] == 0
    assert len(sizes) == 13
    assert min(sizes) >= len(data)
    assert (folder / "out.mp4").read_bytes() == expected


@pytest.mark.parametrize("damaged", [True, False])
def test_ctrl_c_while_it_is_made_again_keeps_the_longer_film(tmp_path: Path, expected: bytes, damaged: bool) -> None:
    run(film_request(tmp_path, duration=LENGTH), at(10, lambda: signal.raise_signal(signal.SIGINT)))
    part = tmp_path / "out.part.mp4"
    before = (tmp_path / "out.mp4").read_bytes()
    if damaged:
        data = bytearray(part.read_bytes())
        data[2000] ^= 1
        part.write_bytes(data)
    stop = 1 if damaged else 9
    code, printed = run(alone(tmp_path), at(stop, lambda: signal.raise_signal(signal.SIGINT)))
    assert code == 130
    assert "--resume goes on" in printed
    assert (tmp_path / "out.mp4").read_bytes() == before
    assert len(decode(part)) >= 128
    code, _ = run(alone(tmp_path), at(11, lambda: signal.raise_signal(signal.SIGINT)))
    assert code == 130
    assert len(decode(tmp_path / "out.mp4")) == 141  # one more than there had been
    assert run(alone(tmp_path))[0] == 0
    assert (tmp_path / "out.mp4").read_bytes() == expected


def test_a_failure_at_the_first_chunk_leaves_what_there_was(folder: Path, expected: bytes) -> None:
    for snapshot in (folder / "out.part").glob("*.safetensors"):
        snapshot.unlink()
    before = (folder / "out.part.mp4").read_bytes()

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run(alone(folder), at(0, fail))
    assert (folder / "out.part.mp4").read_bytes() == before
    assert run(alone(folder))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_film_that_fails_at_once_deletes_no_other(folder: Path, overwrite: bool) -> None:
    part = folder / "out.part.mp4"
    before = part.read_bytes()
    (folder / "out.part" / "journal.jsonl").write_bytes(b'{"begun"')  # cut off, as a full disk once left it

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run(film_request(folder, duration=LENGTH, resume=not overwrite, overwrite=overwrite), at(0, fail))
    assert part.read_bytes() == before


def test_frames_that_the_disk_lost_are_missed_before_the_film_has_its_name(tmp_path: Path) -> None:
    part = tmp_path / "out.part.mp4"

    def lose() -> None:
        with part.open("r+b") as file:
            file.truncate(part.stat().st_size // 2)

    with pytest.raises((RenderFailure, ValueError)) as caught:
        run(film_request(tmp_path, duration=LENGTH), at(12, lose))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.mp4").exists()


# ------------------------------------------------------------------ whole, and proven to be


def kept_by_a_kill_at_the_end(folder: Path, target: str) -> Path:
    """Everything on the disk just before `target` is called at a film's end."""
    left = folder.with_name(f"{folder.name}-left")
    folder.mkdir()
    module, _, name = target.rpartition(".")
    with pytest.MonkeyPatch.context() as patch:
        honest: Any = getattr(sys.modules[module], name) if module in sys.modules else None
        if honest is None:
            cls, _, method = target.rpartition(".")
            owner, _, class_name = cls.rpartition(".")
            holder, name = getattr(sys.modules[owner], class_name), method
            honest = getattr(holder, method)
        else:
            holder = sys.modules[module]

        def copy_first(*arguments: Any, **options: Any) -> Any:
            if not left.exists():
                shutil.copytree(folder, left)
            return honest(*arguments, **options)

        patch.setattr(holder, name, copy_first)
        run(film_request(folder, duration=LENGTH))
    return left


@pytest.mark.parametrize(
    ("target", "made"),
    [
        ("app.render.results.join", 1),
        ("app.render.results.write_vtt", 1),
        ("app.render.render.conclude", 0),
        ("app.record.journal.Journal.remove", 0),
        ("app.record.journal.Journal._remove", 0),
    ],
)
def test_a_kill_in_the_last_moments_goes_on_or_is_whole(
    tmp_path: Path, expected: bytes, target: str, made: int
) -> None:
    left = kept_by_a_kill_at_the_end(tmp_path / "film", target)
    opener = Opener()
    code, printed = run(alone(left), opener)
    assert code == 0
    assert (left / "out.mp4").read_bytes() == expected
    assert sorted(file.name for file in left.iterdir() if file.suffix) == ["out.json", "out.mp4", "out.vtt"]
    assert sum(len(stream.asked) for stream in opener.streams) == made  # chunk 12, the last segment
    assert ("is whole already (its bytes are those that were written)" in printed) == (not made)


def test_a_part_that_outlived_its_journal_is_no_riddle(tmp_path: Path, expected: bytes) -> None:
    left = kept_by_a_kill_at_the_end(tmp_path / "film", "app.record.journal.Journal.remove")
    shutil.rmtree(left / "out.part")
    code, printed = run(alone(left))
    assert code == 0
    assert "whole already" in printed
    assert not (left / "out.part.mp4").exists()
    assert (left / "out.mp4").read_bytes() == expected


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_whole_film_that_changed_is_not_called_whole(
    tmp_path: Path, harm: Callable[[bytes, np.random.Generator], bytes]
) -> None:
    whole_film(tmp_path / "film")
    film = tmp_path / "film" / "out.mp4"
    film.write_bytes(harm(film.read_bytes(), np.random.default_rng(5)))
    with pytest.raises(RenderFailure, match=r"out\.mp4 is not the film that .*out\.json tells of.*Put the right"):
        run(alone(tmp_path / "film"))


def test_a_whole_film_without_a_readable_record_is_not_called_whole(tmp_path: Path) -> None:
    before = whole_film(tmp_path / "film")
    (tmp_path / "film" / "out.json").write_text("{")
    with pytest.raises(UsageMistake, match=r"neither a journal .* nor a \.json that proves it whole"):
        run(alone(tmp_path / "film"))
    with pytest.raises(UsageMistake, match="neither a journal"):
        run(film_request(tmp_path / "film", duration=LENGTH, resume=True))
    assert (tmp_path / "film" / "out.mp4").read_bytes() == before


def test_a_film_of_an_earlier_version_is_counted_and_that_is_said(tmp_path: Path) -> None:
    whole_film(tmp_path / "film")
    record = tmp_path / "film" / "out.json"
    told = json.loads(record.read_text())
    del told["film"]["file_sha256"]
    record.write_text(json.dumps(told))
    code, printed = run(alone(tmp_path / "film"))
    assert code == 0
    assert "its frames are all there; no hash of its bytes was noted" in printed
    film = tmp_path / "film" / "out.mp4"
    film.write_bytes(film.read_bytes()[:-300])
    with pytest.raises(RenderFailure, match="is not the film that"):
        run(alone(tmp_path / "film"))


def test_a_whole_film_is_not_another(tmp_path: Path) -> None:
    before = whole_film(tmp_path / "film")
    with pytest.raises(UsageMistake, match="is whole already and was made of other prompts"):
        run(film_request(tmp_path / "film", "a green ring", duration=LENGTH, resume=True))
    with pytest.raises(UsageMistake, match="is whole already and was made with seed 7, not 8"):
        run(film_request(tmp_path / "film", duration=LENGTH, resume=True, seed=8))
    assert (tmp_path / "film" / "out.mp4").read_bytes() == before


def test_a_film_that_replaces_a_whole_one_is_resumed(tmp_path: Path) -> None:
    whole_film(tmp_path / "film")
    left = tmp_path / "left"
    again = film_request(tmp_path / "film", "a green ring", duration=LENGTH, overwrite=True)
    run(again, at(5, lambda: shutil.copytree(tmp_path / "film", left)))
    code, printed = run(alone(left))
    assert code == 0
    assert "Going on from chunk 3" in printed
    assert (left / "out.mp4").read_bytes() == (tmp_path / "film" / "out.mp4").read_bytes()


def test_begun_over_and_killed_at_once_a_film_can_still_be_resumed(folder: Path) -> None:
    left = folder.with_name("left")
    again = film_request(folder, "a green ring", duration=LENGTH, overwrite=True)
    run(again, at(0, lambda: shutil.copytree(folder, left)))
    assert run(alone(left))[0] == 0
    assert (left / "out.mp4").read_bytes() == (folder / "out.mp4").read_bytes()


def test_resuming_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageMistake, match=r"There is nothing to resume beside .*out\.mp4"):
        run(alone(tmp_path))
    assert not list(tmp_path.iterdir())
    code, printed = run(film_request(tmp_path, resume=True))
    assert code == 0
    assert "Nothing to resume beside" in printed


def test_a_job_that_was_whole_when_the_server_ended_is_not_deleted(tmp_path: Path) -> None:
    whole_film(tmp_path / "film")
    folder = tmp_path / "job"
    folder.mkdir()
    for name in ("mp4", "json"):
        shutil.copy(tmp_path / "film" / f"out.{name}", folder / f"film.{name}")
    before = contents(folder)
    assert begin(folder, [sys.executable, "-c", ""]).wait() == 0
    assert before.items() <= contents(folder).items()
    asked = [sys.executable, "-c", "import sys; open('asked', 'w').write(sys.argv[1])"]
    assert begin(folder, asked).wait() == 0
    assert (folder / "asked").read_text() == "--resume", "which says that it is whole"
    (folder / "film.json").unlink()  # a film that nothing is known of is replaced, once there is a better one
    assert begin(folder, asked).wait() == 0
    assert (folder / "asked").read_text() == "--overwrite"
    assert (folder / "film.mp4").read_bytes() == (tmp_path / "film" / "out.mp4").read_bytes()


# ------------------------------------------------------------------ whose file is whose

NAMES = (
    "film.mp4",
    "film.MP4",
    "film.gif",
    "film.webp",
    "film.gif.mp4",
    "film.mp4.mp4",
    "film_%06d.png",
    "film_%d.png",
)
NAMES += ("film%d.mp4", "film%06d.mp4", "film #1.mp4", "film.png.mp4", "film/frame_%06d.png", "%d.mp4", "film.mp4.gif")


def test_no_two_films_share_a_file() -> None:
    taken: dict[Path, str] = {}
    for name in NAMES:
        request = replace(film_request(Path("x")), output=Path("x") / name)
        beside = [sidecar.beside(request.output, ending) for ending in (".json", ".vtt")]
        for path in {request.output, request.part, request.folder, *beside}:
            assert path not in taken, f"{path} is of {name} and of {taken[path]}"
            taken[path] = name


def test_films_with_signs_in_their_names_live_side_by_side(tmp_path: Path) -> None:
    names = ["sale 100.mp4", "sale 100%d.mp4", "sale 100%06d.mp4", "sale #1 100%.mp4", "%d.mp4", "sale 100.gif"]
    for seed, name in enumerate(names):
        assert run(replace(film_request(tmp_path, seed=seed), output=tmp_path / name))[0] == 0
    for seed, name in enumerate(names):
        record = sidecar.read(sidecar.sidecar_path(tmp_path / name))
        assert (record.seed, record.film.file) == (seed, name)
        if sink_kind(tmp_path / name) == "mp4":
            assert read_metadata(tmp_path / name)["comment"].endswith(f"seed {seed}")
    assert len(list(tmp_path.iterdir())) == 3 * len(names)


def test_what_the_version_before_left_under_a_shared_name_goes_on(folder: Path, expected: bytes) -> None:
    as_before(folder)
    request = replace(alone(folder), output=folder / "out%d.mp4")
    code, printed = run(request)
    assert code == 0
    assert "Taking over" in printed
    assert (folder / "out%d.mp4").read_bytes() == expected
    assert sorted(file.name for file in folder.iterdir()) == ["out%d.json", "out%d.mp4", "out%d.vtt"]


def test_what_this_version_left_is_only_its_own_films(folder: Path, expected: bytes) -> None:
    with pytest.raises(UsageMistake, match=r"nothing to resume beside .*out%d\.mp4"):
        run(replace(alone(folder), output=folder / "out%d.mp4"))
    assert run(alone(folder))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": Path("out.part.mp4")}, r"is what out\.mp4 is called while it grows"),
        ({"output": Path("out.PART.mp4")}, "while it grows"),
        ({"report": Path("out.json")}, r"out\.json is a file of the film itself.*--report"),
        ({"report": Path("out.mp4")}, "is a file of the film itself"),
        ({"report": Path("out.part.mp4")}, "is a file of the film itself"),
    ],
)
def test_a_film_does_not_overwrite_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageMistake, match=said):
        run(replace(film_request(Path(), overwrite=True), **change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", [True, False])
def test_the_sound_and_the_report_are_remembered(tmp_path: Path, asked: bool) -> None:
    song, page = tone(tmp_path / "song.wav", 12), tmp_path / "page.html"
    films: list[bytes] = []
    for name in ("whole", "film"):
        folder = tmp_path / name
        folder.mkdir()
        request = replace(film_request(folder, duration=LENGTH), audio=song, report=page, overwrite=True)
        left = tmp_path / "left"
        run(request, at(10, lambda: shutil.copytree(folder, left, dirs_exist_ok=True)))  # noqa: B023  # called at once
        films.append((folder / "out.mp4").read_bytes())
    assert films[0] == films[1]
    page.unlink()
    changed = song.read_bytes()
    song.write_bytes(changed + b"\0\0")
    again = film_request(left, duration=LENGTH, resume=True) if asked else alone(left)
    with pytest.raises(UsageMistake, match=r"song\.wav, the sound .* has changed\. Put it back, or give"):
        run(again)
    song.write_bytes(changed)
    assert run(again)[0] == 0
    assert (left / "out.mp4").read_bytes() == films[0]
    assert page.is_file()


# ------------------------------------------------------------------ what is not to be told


def told_by(path: Path, words: tuple[bytes, ...] = (b"red ball", b"blue star", b"31415")) -> list[bytes]:
    data = path.read_bytes()
    return [word for word in words if word in data or word.decode().encode("utf-16-be") in data]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_film_without_metadata_tells_nothing(tmp_path: Path, resumed: bool) -> None:
    request = replace(film_request(tmp_path, duration=LENGTH, seed=31415), left_out=("metadata", "subtitles"))
    if resumed:
        run(request, at(10, lambda: signal.raise_signal(signal.SIGINT)))
        assert told_by(tmp_path / "out.mp4") == []
        assert run(alone(tmp_path))[0] == 0  # nobody has to ask twice
    else:
        assert run(request)[0] == 0
    assert told_by(tmp_path / "out.mp4") == []
    assert read_metadata(tmp_path / "out.mp4").keys() <= {
        "major_brand",
        "minor_version",
        "compatible_brands",
        "encoder",
    }
    assert not (tmp_path / "out.vtt").exists()
    assert told_by(tmp_path / "out.json") == [b"red ball", b"blue star", b"31415"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.json", "out.mp4"]


def test_asked_for_nothing_there_is_a_film_and_nothing_else(tmp_path: Path) -> None:
    run(film_request(tmp_path, seed=1))  # of an earlier film: its subtitles would be wrong
    request = replace(film_request(tmp_path, overwrite=True), left_out=("metadata", "subtitles", "sidecar"))
    code, printed = run(request)
    assert code == 0
    assert ".json" not in printed
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_a_film_tells_what_it_shows_unless_it_is_asked_not_to(tmp_path: Path) -> None:
    run(film_request(tmp_path, seed=31415))
    assert told_by(tmp_path / "out.mp4") == [b"red ball", b"blue star", b"31415"]
    assert [chapter.title for chapter in numbered(())] == []


# ------------------------------------------------------------------ the terminal that goes


def test_lines_to_a_terminal_that_has_gone_do_not_end_the_film(tmp_path: Path) -> None:
    done = tmp_path / "done"
    script = f"""
import pathlib, sys, time
from app.render.interrupt import Interrupt
with Interrupt() as interrupt:
    print("begun", flush=True)
    while not interrupt.asked:
        time.sleep(0.01)
    for _ in range(100):
        print("a chunk", flush=True)
    pathlib.Path({str(done)!r}).write_text(f"{{interrupt.word}} {{interrupt.code}}")
"""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{script}"],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    assert os.read(master, 5) == b"begun"
    os.close(master)  # the window is closed: the kernel sends SIGHUP
    assert process.wait(30) == 0
    assert done.read_text() == "SIGHUP 129"
    assert not Interrupt().asked


# ------------------------------------------------------------------ the benchmark


def test_the_benchmark_tells_films_from_what_is_none(tmp_path: Path) -> None:
    whole_film(tmp_path / "whole")
    (tmp_path / "whole" / "out.mp4").rename(tmp_path / "whole" / damage.FILM)
    judge = damage._Judge(tmp_path / "whole")
    here = Path(shutil.copytree(tmp_path / "whole", tmp_path / "here"))
    before = damage._sizes(here)

    def verdict(asked: str, code: int | None, said: str = "") -> str:
        return judge(here, asked, damage._Told(code, said, 1.0), before)

    sentence = "rivulet: journal.jsonl, line 1 is damaged. Add --overwrite to start over.\n"
    assert verdict("resume", 0) == verdict("replay", 0) == "the film"
    assert verdict("resume", 2, sentence) == verdict("resume", 1, sentence) == "refused"
    assert verdict("replay", 1) == "refused"
    assert verdict("resume", None) == "hung"
    for code, said in ((1, ""), (3, sentence), (1, "rivulet: Something broke (KeyError). Run with --debug."), (2, "x")):
        assert verdict("resume", code, said) == "broke"
    film = here / damage.FILM
    data = film.read_bytes()
    film.write_bytes(data + b"\0")
    assert (verdict("resume", 0), verdict("replay", 0)) == ("wrong film", "the film")  # not a picture has changed
    film.write_bytes(data[:-2000])
    assert verdict("replay", 0) == "wrong film"
    assert verdict("resume", 2, sentence) == "lost"


def test_the_benchmark_damages_what_it_says(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20
    for kind in ("flip", "zero", "cut", "cut out", "append"):
        changed = [damage._changed(data, kind, random.Random(seed), 100, 200) for seed in range(20)]
        assert all(each != data and each[:100] == data[:100] for each in changed)
        assert len(set(changed)) > 5
        if kind in ("flip", "zero"):
            assert all(len(each) == len(data) and each[200:] == data[200:] for each in changed)
    assert damage._changed(b"", "flip", random.Random(0), 0, 0) != b""
    pairs = {(number % len(damage._KINDS), number % len(damage._DAMAGES)) for number in range(200)}
    assert len(pairs) == len(damage._KINDS) * len(damage._DAMAGES)


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_model(tmp_path / "model")
    file = tmp_path / "damage.json"
    assert main(["bench", "damage", "--model", str(model), "--repeats", "9", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["passed"]
    assert [each["exit"] for each in result["rounds"]].count(0) >= 4
    assert all(each["said"].startswith("rivulet: ") for each in result["rounds"] if each["exit"])
    assert "9 damages" in capsys.readouterr().out
