"""Disks that fill up, vanish or lose their permissions under a film: one sentence, exit 1, and then it goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import RenderFailure, UsageMistake, explain
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened
from app.media import mp4 as video
from app.record import sidecar
from app.record.journal import Journal
from app.render import results as outcome
from tests.app_doubles import Opener
from tests.media.test_video import decode
from tests.render.test_render import at, film_request, run
from tests.render.test_resume import LENGTH, hashes, killed_films, whole_film


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def refused(error: pytest.ExceptionInfo[RenderFailure]) -> str:
    """What a person reads: one line, exit code 1."""
    text, code = explain(error.value)
    assert code == 1
    assert "\n" not in text
    assert text.endswith(".")
    return text


# ------------------------------------------------------------------ full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 128 kB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.name != "posix" or os.geteuid() or mount is None:
        pytest.skip("mounting takes root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_film_on_a_small_disk_goes_on_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = replace(film_request(whole, duration="60s", scale=16), segment_chunks=12)
    run(expected)
    request = replace(expected, output=small_disk / "out.mp4")
    with pytest.raises(
        RenderFailure, match=r"disk is full.*About 0\.\d MB more are needed.*--resume goes on"
    ) as caught:
        run(request)
    refused(caught)
    assert sorted(file.name for file in small_disk.iterdir()) == ["out.part", "out.part.mp4"]
    assert len(decode(small_disk / "out.part.mp4")) >= 8
    with pytest.raises((RenderFailure, OSError)) as caught:  # nothing was freed
        run(replace(request, resume=True))
    assert explain(caught.value)[1] == 1
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert run(replace(request, resume=True))[0] == 0
    assert (small_disk / "out.mp4").read_bytes() == (whole / "out.mp4").read_bytes()
    assert sorted(file.name for file in small_disk.iterdir()) == ["out.json", "out.mp4", "out.vtt"]


@contextmanager
def film_bytes_run_out() -> Iterator[None]:
    """The film's file takes half of the bytes of its 41st write and then no more, as a full disk does."""
    writes = 0
    honest = video._Tail.write  # pyright: ignore[reportPrivateUsage]

    def write(self: video._Tail, data: bytes) -> int:  # pyright: ignore[reportPrivateUsage]
        nonlocal writes
        writes += 1
        if writes <= 40:
            return honest(self, data)
        if writes == 41:
            honest(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video._Tail, "write", write)  # pyright: ignore[reportPrivateUsage]
        yield


@contextmanager
def patched(target: object, name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, full_disk)
        yield


@contextmanager
def third_note_runs_out() -> Iterator[None]:
    """The journal takes no third chunk."""
    honest = Journal.chunk

    def chunk(self: Journal, record: sidecar.ChunkRecord) -> None:
        if record.index == 3:
            full_disk()
        honest(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "chunk", chunk)
        yield


@pytest.mark.parametrize(
    "filling",
    [
        film_bytes_run_out,
        third_note_runs_out,
        lambda: patched(outcome, "join"),
        lambda: patched(sidecar, "write"),
        lambda: patched(outcome, "write_vtt"),
    ],
    ids=["film", "journal", "final film", "json", "subtitles"],
)
def test_wherever_the_disk_runs_out_the_film_goes_on_to_be_the_same(
    tmp_path: Path, filling: Callable[[], AbstractContextManager[None]]
) -> None:
    expected = whole_film(tmp_path / "whole")
    folder = tmp_path / "film"
    folder.mkdir()
    with filling(), pytest.raises(RenderFailure, match=r"disk is full.*--resume goes on") as caught:
        run(film_request(folder, duration=LENGTH))
    assert "play from" in refused(caught)
    assert (folder / "out.mp4").exists() or not (folder / "out.json").exists(), "half of it looks whole"
    assert run(film_request(folder, duration=LENGTH, resume=True))[0] == 0
    assert (folder / "out.mp4").read_bytes() == expected
    assert hashes(folder) == hashes(tmp_path / "whole")
    assert sorted(file.name for file in folder.iterdir()) == ["out.json", "out.mp4", "out.vtt"]


@pytest.mark.parametrize("saved", [0, 2])
def test_what_is_needed_counts_snapshots_that_are_not_there_yet(tmp_path: Path, saved: int) -> None:
    class Heavy(Opener):
        def __call__(self, request: EngineRequest, seed: int) -> Opened:
            opened, done = super().__call__(request, seed), 0

            def save(path: Path) -> str:
                nonlocal done
                if path.is_relative_to(tmp_path) and done == saved:
                    full_disk()
                done += 1
                digest = opened.save(path)
                with path.open("ab") as file:
                    file.truncate(5_000_000)
                return digest

            return replace(opened, save=save)

    with pytest.raises(RenderFailure, match=rf"About {5 * (3 - saved)}\.\d MB more are needed"):
        run(film_request(tmp_path, duration=LENGTH), Heavy())


# ------------------------------------------------------------------ gone, or closed


def test_an_output_folder_that_vanishes_ends_the_film_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "film"
    folder.mkdir()
    opener = at(4, lambda: shutil.rmtree(folder))
    with pytest.raises(RenderFailure, match="removed while it was written") as caught:
        run(film_request(folder, duration=LENGTH), opener)
    assert refused(caught).endswith("nothing of the film is left. Render it again.")
    assert len(opener.streams[0].asked) == 6, "it went on after the segment's end"
    assert not folder.exists()


def test_a_film_whose_journal_vanishes_plays_and_starts_over(tmp_path: Path) -> None:
    with pytest.raises(RenderFailure, match=r"play from .*out\.part\.mp4; its journal is gone") as caught:
        run(film_request(tmp_path, duration=LENGTH), at(4, lambda: shutil.rmtree(tmp_path / "out.part")))
    refused(caught)
    assert len(decode(tmp_path / "out.part.mp4")) >= 40
    with pytest.raises(UsageMistake, match="Its journal is gone: add --overwrite"):
        run(film_request(tmp_path, duration=LENGTH, resume=True))
    assert run(film_request(tmp_path, duration=LENGTH, overwrite=True))[0] == 0
    assert (tmp_path / "out.mp4").read_bytes() == whole_film(tmp_path / "whole")


def test_a_growing_film_that_vanishes_is_noticed_and_made_again(tmp_path: Path) -> None:
    with pytest.raises(RenderFailure, match="removed while it was written"):
        run(film_request(tmp_path, duration=LENGTH), at(7, (tmp_path / "out.part.mp4").unlink))
    assert run(film_request(tmp_path, duration=LENGTH, resume=True))[0] == 0
    assert (tmp_path / "out.mp4").read_bytes() == whole_film(tmp_path / "whole")


def test_a_folder_that_becomes_unwritable_costs_a_segment(tmp_path: Path) -> None:
    class Closed(Opener):
        def __call__(self, request: EngineRequest, seed: int) -> Opened:
            def save(path: Path) -> str:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))

            return replace(super().__call__(request, seed), save=save)

    folder = tmp_path / "film"
    folder.mkdir()
    with pytest.raises(RenderFailure, match=r"Permission denied\. Check .*--resume goes on") as caught:
        run(film_request(folder, duration=LENGTH), Closed())
    refused(caught)
    assert run(film_request(folder, duration=LENGTH, resume=True))[0] == 0
    assert (folder / "out.mp4").read_bytes() == whole_film(tmp_path / "whole")


def test_the_folder_of_pictures_is_made(tmp_path: Path) -> None:
    request = replace(film_request(tmp_path), output=tmp_path / "pictures" / "frame_%06d.png")
    assert run(request)[0] == 0
    assert len(list((tmp_path / "pictures").glob("frame_*.png"))) == 40
    assert sidecar.read(tmp_path / "pictures" / "frame_%06d.png.json").film.frames == 40
    with pytest.raises(UsageMistake, match="no folder"):
        run(replace(request, output=tmp_path / "no" / "such" / "frame_%06d.png"))


@pytest.mark.parametrize("name", ["out.gif", "pictures/frame_%06d.png"])
def test_pictures_whose_folder_vanishes_end_with_a_sentence(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "film"
    folder.mkdir()
    request = replace(film_request(folder), output=folder / name)
    with pytest.raises(RenderFailure, match=r"No such file.*\. Check") as caught:
        run(request, at(2, lambda: shutil.rmtree(folder)))
    refused(caught)


# ------------------------------------------------------------------ damaged


def test_with_all_snapshots_damaged_the_film_starts_over(tmp_path: Path) -> None:
    folder = killed_films(tmp_path / "film")[11]
    for snapshot in (folder / "out.part").glob("*.safetensors"):
        snapshot.write_bytes(b"\0" * 9)
    opener = Opener()
    _, printed = run(film_request(folder, duration=LENGTH, resume=True), opener)
    assert printed.count("is damaged") == 2
    assert "starting from the beginning" in printed
    assert len(opener.streams[0].asked) == 13
    assert (folder / "out.mp4").read_bytes() == whole_film(tmp_path / "whole")
