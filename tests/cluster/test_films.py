"""Films on a cluster, with workers that are this process: retries from the journal, mistakes, Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app.cli.main import main
from app.cluster import films
from app.cluster.films import Order, Outcome, WorkerLost, make, render_on
from app.cluster.nodes import Node, device_on
from app.cluster.progress import EVERY, BatchProgress
from app.config.settings import given_by_flags, resolve
from app.errors import EXIT_INTERRUPTED, RenderFailure, UsageMistake
from app.record import sidecar
from app.record.journal import Journal
from app.record.request import RenderRequest
from app.record.sidecar import library_versions
from app.render.batch import RunFlags, film_requests
from app.render.progress import span
from tests.app_doubles import Opener


class Here:
    """Workers that make a film when somebody waits for one; `killed` tells which attempts lose their worker."""

    def __init__(self, killed: Callable[[int, Order], bool] = lambda attempt, order: False) -> None:
        self.killed = killed
        self.orders: list[Order] = []
        self.cancelled: list[tuple[int, bool]] = []

    def submit(self, order: Order) -> int:
        self.orders.append(order)
        return len(self.orders) - 1

    def ended(self, tasks: Sequence[int], seconds: float) -> Sequence[int]:
        return tasks[:1]

    def outcome(self, task: int) -> Outcome:
        if any(number == task for number, _ in self.cancelled):
            raise WorkerLost("it was cancelled")
        outcome = make(self.orders[task])
        if self.killed(task, self.orders[task]):
            raise WorkerLost("the process that made it has ended")
        return outcome

    def cancel(self, task: int, *, force: bool) -> None:
        self.cancelled.append((task, force))


@pytest.fixture
def opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """What films are painted by, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    painted = Opener()
    monkeypatch.setattr(films, "_MODEL", painted)
    return painted


def requests(flags: RunFlags | None = None, count: int = 3, **given: Any) -> list[RenderRequest]:
    Path("lines.txt").write_text("".join(f"a ball number {index}\n" for index in range(count)))
    settings = {"prompts": "lines.txt", "duration": "3s", "segment_chunks": 1, **given}
    return film_requests(resolve([given_by_flags(settings)]), flags or RunFlags())


def hashes(folder: str) -> list[list[str]]:
    return [[chunk.sha256 for chunk in sidecar.read(file).chunks] for file in sorted(Path(folder).glob("*.json"))]


def console() -> Console:
    return Console(quiet=True)


def test_a_film_whose_worker_was_killed_goes_on_from_its_journal_and_is_the_same_film(opener: Opener) -> None:
    assert render_on(Here(), requests(output="whole"), console()) == 0

    def breaks(index: int) -> None:
        if (
            index == 2 and len(opener.streams) == 7
        ):  # one judges each batch; the second film of the second batch, the first time
            raise OSError("killed")

    opener.before = breaks
    workers = Here(killed=lambda attempt, order: attempt == 2)
    assert render_on(workers, requests(output="killed"), console()) == 0
    assert hashes("killed") == hashes("whole")
    asked = [order.request for order in workers.orders if not order.judge]
    assert [request.resume for request in asked] == [False, False, False, True]
    assert asked[3].output == asked[1].output
    assert opener.streams[-1].asked != []
    assert len(opener.streams[-1].asked) < len(opener.streams[1].asked)  # what there was is not made again
    assert not list(Path("killed").glob("*.part*"))


def test_a_worker_that_is_lost_before_it_began_is_asked_again_and_not_for_ever(opener: Opener) -> None:
    Path("out").mkdir()
    (first,) = requests(count=1, output="out")
    assert render_on(Here(), [first], console()) == 0
    again = requests(RunFlags(overwrite=True), count=1, output="out")
    lost = Here()
    lost.outcome = lambda task: (_ for _ in ()).throw(WorkerLost("gone"))  # type: ignore[method-assign]
    with pytest.raises(RenderFailure, match="1 of 1 films in out are not there"):
        render_on(lost, again, console())
    assert len(lost.orders) == films.MOST_LOSSES
    # Else the film that lies there, which was to be replaced, would be taken for the new one.
    assert all(order.request.overwrite and not order.request.resume for order in lost.orders)


def test_mistakes_of_all_films_are_one_sentence_and_of_some_the_batch_goes_on(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Here()
    with monkeypatch.context() as patched:
        patched.setattr(films, "library_versions", lambda: {"torch": str(len(workers.orders))})
        with pytest.raises(UsageMistake, match=r"has torch \d. Install the same versions everywhere"):
            render_on(workers, requests(output="a"), console())
    opener.before = lambda index: (_ for _ in ()).throw(RuntimeError("odd")) if len(opener.streams) == 3 else None
    with pytest.raises(RenderFailure, match=r"1 of 3 films in b are not there \(001.mp4\).*--resume"):
        render_on(Here(), requests(output="b"), console())
    assert sorted(path.name for path in Path("b").glob("*.mp4")) == ["000.mp4", "002.mp4"]


def test_a_batch_is_read_whole_before_its_first_film(opener: Opener) -> None:
    def reads(prompt: str) -> dict[str, tuple[str, ...]]:
        if prompt == "a ball number 2":
            raise ValueError("too many words")
        return {}

    opened = type(opener).__call__
    workers, lost = Here(), Here(killed=lambda attempt, order: True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            films, "_MODEL", lambda request, seed: replace(opened(opener, request, seed), read_prompt=reads)
        )
        with pytest.raises(UsageMistake, match=r"lines.txt, line 3.*too many words"):
            render_on(workers, requests(output="out"), console())
    assert [bool(order.judge) for order in workers.orders] == [True]
    with pytest.raises(RenderFailure, match="No film was begun"):
        render_on(lost, requests(output="out"), console())
    assert not list(Path("out").iterdir())


def test_a_folder_that_a_node_does_not_see_is_told(opener: Opener, tmp_path: Path) -> None:
    (request,) = requests(count=1)
    told = make(Order(request, str(tmp_path / "elsewhere"), sidecar.library_versions()))
    assert told.code == 2
    assert "does not see" in told.why
    assert "share the folder" in told.why


def test_ctrl_c_ends_films_that_are_made_and_those_that_wait(opener: Opener) -> None:
    class Pressed(Here):
        pressed = False

        def ended(self, tasks: Sequence[int], seconds: float) -> Sequence[int]:
            if len(opener.streams) > 1 and not self.pressed:
                self.pressed = True
                os.kill(os.getpid(), signal.SIGINT)
                return []
            return tasks[:1]

    workers = Pressed()
    assert render_on(workers, requests(output="out"), console()) == EXIT_INTERRUPTED
    assert workers.cancelled == [(2, False), (3, False)]
    assert [path.name for path in Path("out").glob("*.mp4")] == ["000.mp4"]


def test_what_a_cluster_cannot_be_asked_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.cluster.nodes.find_spec", lambda name: None)
    for command in (["render", "a ball"], ["web", "--port", "0"]):
        assert main([*command, "--cluster", "auto"]) == 2
        assert capsys.readouterr().err == "rivulet: --cluster needs Ray. Install: pip install 'rivulet[ray]'\n"
    monkeypatch.setattr("app.cluster.nodes.find_spec", lambda name: object())
    for where, sentence in (("nobody", "is no head node"), ("127.0.0.1:1", "Nobody answers at 127.0.0.1:1")):
        assert main(["render", "a ball", "--cluster", where]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert main(["render", "a ball", "--cluster", "auto", "--parallel", "levels=2"]) == 2
    assert "Leave --parallel and --gpus out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_device_is_chosen_by_the_nodes_and_not_by_this_machine() -> None:
    assert device_on([Node("a", 4, 0), Node("b", 4, 1)], "auto") == "cuda"
    assert device_on([Node("a", 4, 0)], "auto") == "cpu"
    assert device_on([Node("a", 4, 1)], "cpu") == "cpu"


def test_a_batch_tells_how_far_its_films_are_and_how_long_the_rest_takes(opener: Opener) -> None:
    Path("batch").mkdir()
    now = [0.0]
    out = StringIO()
    said = Console(file=out, width=200)
    batch = requests(output="batch", count=4)
    progress = BatchProgress(said, batch, clock=lambda: now[0])
    assert make(Order(batch[0], str(Path.cwd()), library_versions())).code == 0

    def breaks(index: int) -> None:
        if index == 2:
            raise OSError("killed")

    opener.before = breaks
    assert make(Order(batch[1], str(Path.cwd()), library_versions())).code != 0
    history = Journal(batch[1].folder).read()
    assert history is not None
    share = sum(chunk.shown for chunk in history.chunks) / history.header.config.frames
    assert 0.1 < share < 0.9
    now[0] = EVERY / 2
    progress.look({1, 2, 3})
    assert out.getvalue() == "", "not yet"
    now[0] = 60.0
    progress.look({1, 2, 3})
    told = out.getvalue()
    left = (3 - share) * 60 / (1 + share)
    assert told == f"1 of 4 films are made, 1 under way ({share:.0%}); about {span(left)} left.\n"
    now[0] = 70.0
    progress.look({1, 3}, failed=1)
    assert out.getvalue().splitlines()[1].startswith("1 of 4 films are made, 1 could not be made, 1 under way (")
