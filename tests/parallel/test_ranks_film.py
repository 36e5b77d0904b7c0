"""A render on two ranks, as people type it: the same film, resumed by one, and refused in a sentence."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest
import torch

from app.cli.main import main
from app.errors import UsageMistake
from app.loading.launch import Asked, asked_plan, launched
from app.loading.same_model import compare
from app.record import sidecar
from app.record.sidecar import ChunkRecord
from app.render.output import Film
from pipelines.types import Chunk
from tests.app_doubles import save_tiny_model

STREAM = ("--preset", "streamdiffusion-v2", "--untrained", "--threads", "1", "--segment_chunks", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def render(model: Path, film: Path, *more: str) -> int:
    threads = torch.get_num_threads()
    try:
        return main(["render", "a red ball", "a blue star", "--model", str(model), "-o", str(film), *STREAM, *more])
    finally:
        torch.set_num_threads(threads)


def test_a_film_on_two_ranks_is_resumed_by_one_and_is_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    assert render(model, one, "--duration", "9c") == 0
    add = Film.add

    def interrupted(self: Film, chunk: Chunk, memory: int) -> ChunkRecord:
        record = add(self, chunk, memory)
        if record.index == 5:
            raise OSError("the disk went away")
        return record

    with monkeypatch.context() as patch:
        patch.setattr(Film, "add", interrupted)
        assert render(model, two, "--duration", "9c", "--parallel", "levels=2") == 1
    assert "--resume goes on" in capsys.readouterr().err
    assert main(["render", "--resume", "-o", str(two), "--parallel", "single", "--model", str(model)]) == 0
    assert "Going on from chunk" in capsys.readouterr().out
    first, second = (sidecar.read(film.with_suffix(".json")) for film in (one, two))
    assert [chunk.sha256 for chunk in first.chunks] == [chunk.sha256 for chunk in second.chunks]
    assert first.film.sha256 == second.film.sha256
    assert (first.config.parallel, second.config.parallel) == ("", "")
    assert not any("-m app" in " ".join(child.cmdline()) for child in psutil.Process().children())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--parallel", "levels=9"), "too few for 9 ranks"),
        (("--parallel", "ulysses=3"), "too few for 3 ranks"),
        (("--parallel", "levels=3", "--gpus", "2"), "for 3. Give the same number"),
        (("--parallel", "levels"), "Write --parallel levels=2"),
        (("--parallel", "sideways=2"), "unknown plan"),
        (("--gpus", "0"), "0"),
        (("--gpus", "2", "--vram", "12GB"), "--vram fits a film into one device"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_a_rank_starts(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert render(model, tmp_path / "no.mp4", *words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_launch_is_read_from_the_environment() -> None:
    told = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "LOCAL_RANK": "0"}
    found = launched(told)
    assert found is not None
    assert (found.rank, found.size, found.local, found.port, found.agent) == (1, 4, 0, 29500, False)
    for name, value in (("RANK", "4"), ("WORLD_SIZE", "1"), ("MASTER_PORT", "x"), ("MASTER_ADDR", "")):
        assert launched(told | {name: value}) is None
    assert asked_plan("", None, found) == Asked("auto", 4)
    assert asked_plan("layers", None, found) == Asked("layers", 4)
    assert asked_plan("", None, None) is None
    assert asked_plan("single", None, None) is None
    with pytest.raises(UsageMistake, match="the launch"):
        asked_plan("levels=2", None, found)


def test_ranks_with_other_weights_or_versions_are_named() -> None:
    compare([("a", "torch 1"), ("a", "torch 1")])
    with pytest.raises(UsageMistake, match="Rank 2 has other weights"):
        compare([("a", "torch 1"), ("a", "torch 1"), ("b", "torch 1")])
    with pytest.raises(UsageMistake, match="Rank 1 runs torch 2"):
        compare([("a", "torch 1"), ("a", "torch 2")])


def test_a_port_in_use_is_one_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        assert render(model, tmp_path / "no.mp4") == 2
    assert f"Port {port} is in use" in capsys.readouterr().err
