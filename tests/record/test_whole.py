"""A film is called whole only where it is proven to be; what the version before left is counted and said."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import RenderFailure, UsageMistake
from app.jobs.process import begin
from tests.app_doubles import Opener
from tests.record.killed import DAMAGES, alone, as_before, contents, lines_of, set_lines
from tests.render.test_render import at, film_request, run
from tests.render.test_resume import LENGTH, killed_films, whole_film


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
