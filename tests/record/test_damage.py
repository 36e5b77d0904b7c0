"""What lies on the disk is not believed: whatever happened to it, the film comes out as it should, or a sentence."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli.main import main
from app.errors import RenderFailure, UsageMistake, explain
from app.render.interrupt import Interrupt
from benchmarks.robust import damage
from tests.app_doubles import Opener, save_tiny_model
from tests.media.test_video import decode
from tests.record.killed import DAMAGES, alone, contents, lines_of, set_lines
from tests.render.test_render import at, film_request, run
from tests.render.test_resume import LENGTH, hashes, killed_films, rewrite, whole_film

ROOT = Path(__file__).resolve().parents[2]


# ------------------------------------------------------------------ the growing film


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
    for number in range(4):  # CI does more of them to a real film: `rivulet bench damage`
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
