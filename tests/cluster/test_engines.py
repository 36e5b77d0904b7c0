"""Live films on engines elsewhere, which are objects of this process: lost, drained, replaced, full, and not needed."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.cluster import fleet as fleets
from app.cluster.fleet import Fleet
from app.cluster.gateway import ClusterEngine
from app.cluster.host import Asked, ModelFacts, Reply, StreamHost
from app.cluster.nodes import Node
from app.cluster.ray_engines import room_for
from app.cluster.remote import COPY_EVERY, EngineLost, far_model
from app.live.admission import Busy
from app.loading.live import Copy, LiveModel, read_copy
from pipelines.types import Controls
from tests.live_tiny import Clock, TinyModel

BALL, STAR = Controls("a red ball"), Controls("a blue star")


class Engine:
    """A StreamHost over a wire that pickles; `dies` after so many requests, `killed` at once."""

    def __init__(self, name: str = "engine") -> None:
        self.where, self.host = name, StreamHost(TinyModel(Clock()))
        self.killed, self.ended, self.asked = False, False, list[Asked]()
        self.dies: int | None = None

    def load(self) -> ModelFacts:
        return pickle.loads(pickle.dumps(self.host.load(None)))  # type: ignore[arg-type]  # TinyModel does not look

    def ask(self, asked: Asked, copy: Any = None) -> tuple[Reply, Any]:
        if self.killed or (self.dies is not None and len(self.asked) >= self.dies):
            self.killed = True
            raise EngineLost("killed")
        self.asked.append(asked)
        asked, copy = pickle.loads(pickle.dumps((asked, copy)))
        return pickle.loads(pickle.dumps(self.host.ask(asked, copy)))

    def forget(self, stream: int) -> None:
        if not self.killed:
            self.host.forget(stream)

    def fetch(self, copy: Any) -> Copy:
        return copy

    def end(self) -> None:
        self.killed = self.ended = True


class Yard:
    """Begins engines, one after the other; `refuses` is what it says instead."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.refuses: Exception | None = None

    def __call__(self) -> tuple[Engine, ModelFacts]:
        if self.refuses is not None:
            raise self.refuses
        self.engines.append(Engine(f"engine {len(self.engines)}"))
        return self.engines[-1], self.engines[-1].load()


def wait(true: Callable[[], Any]) -> None:
    """Until something holds; threads of a fleet take a moment."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def hashes(stream: Any, count: int, first: int = 0) -> list[str]:
    """Of so many chunks, the prompt of which changes at the fourth."""
    return [stream.next_chunk(BALL if number < 3 else STAR).sha256 for number in range(first, first + count)]


@pytest.fixture(scope="module")
def undisturbed() -> list[str]:
    """The film as this process makes it."""
    return hashes(TinyModel(Clock())().new_stream(5, ()), 9)


@pytest.fixture
def yard() -> Yard:
    return Yard()


def far(fleet: Fleet) -> LiveModel:
    home, facts = fleet.open()
    request: Any = SimpleNamespace()
    return far_model(request, facts, home)


@pytest.mark.parametrize("dies", [1, 2, 5, 7])
def test_a_film_goes_on_with_its_own_chunks_whenever_its_engine_is_lost(
    yard: Yard, undisturbed: list[str], dies: int
) -> None:
    fleet = Fleet(yard)
    model, _ = far(fleet), far(fleet)
    yard.engines[0].dies = dies
    assert hashes(model.new_stream(5, ()), 7) == undisturbed[:7]
    assert fleet.losses == 1
    assert yard.engines[0].ended
    again = [asked for asked in yard.engines[1].asked if asked.method == "next_chunk"]
    assert len(again) <= 7 - (dies - 2) + COPY_EVERY  # from a copy, not from the beginning
    wait(lambda: len(fleet.engines) == 2)  # another one in its place
    fleet.close()
    assert all(engine.ended for engine in yard.engines)


def test_engines_may_be_lost_one_after_the_other_and_the_last_one_is_waited_for(
    yard: Yard, undisturbed: list[str]
) -> None:
    fleet = Fleet(yard)
    stream = far(fleet).new_stream(5, ())
    made: list[str] = []
    for lost in range(3):
        made += hashes(stream, 2, len(made))
        yard.engines[lost].killed = True
    assert made == undisturbed[:6]
    assert hashes(stream, 1, 6) == undisturbed[6:7]
    assert fleet.losses == 3
    fleet.close()


def test_a_rewind_a_preview_and_a_saved_copy_are_the_same_elsewhere(
    yard: Yard, undisturbed: list[str], tmp_path: Path
) -> None:
    fleet = Fleet(yard)
    model = far(fleet)
    stream = model.new_stream(5, ())
    assert hashes(stream, 2) == undisturbed[:2]
    mark = stream.copy()
    assert hashes(stream, 4, 2) == undisturbed[2:6]
    yard.engines[0].killed = True
    stream.go_back(mark)
    assert hashes(stream, 1, 2) == undisturbed[2:3]
    assert stream.preview(STAR).sha256 == stream.preview(STAR).sha256
    assert hashes(stream, 3, 3) == undisturbed[3:6]
    saved = stream.copy()
    assert saved.size > 0
    sha256 = saved.save(tmp_path / "state.safetensors")
    other = model.new_stream(5, ())
    other.go_back(read_copy(tmp_path / "state.safetensors", sha256))
    assert hashes(other, 3, 6) == undisturbed[6:9]
    fleet.close()


def test_a_drained_engine_ends_when_its_films_have_left_and_nothing_is_made_twice(
    yard: Yard, undisturbed: list[str]
) -> None:
    fleet = Fleet(yard)
    model = far(fleet)
    streams = [model.new_stream(5, ()) for _ in range(2)]
    for stream in streams:
        assert hashes(stream, 3) == undisturbed[:3]
    fleet.drain(yard.engines[0])
    wait(lambda: len(yard.engines) == 2 and fleet.engines == [yard.engines[1]])
    assert hashes(streams[0], 3, 3) == undisturbed[3:6]
    assert not yard.engines[0].ended
    assert hashes(streams[1], 3, 3) == undisturbed[3:6]
    assert yard.engines[0].ended
    assert fleet.losses == 0
    assert sum(asked.method == "next_chunk" for asked in yard.engines[1].asked) == 6
    del streams, stream
    fleet.close()


def test_what_a_stream_refuses_is_refused_here_and_no_engine_is_lost(yard: Yard, undisturbed: list[str]) -> None:
    fleet = Fleet(yard)
    model = far(fleet)
    stream = model.new_stream(5, ())
    with pytest.raises(ValueError, match="cannot read xyzzy"):
        model.read_prompt("xyzzy")
    yard.engines[0].host._streams[stream._number].set_knobs = lambda knobs: (_ for _ in ()).throw(ValueError("no"))  # type: ignore
    with pytest.raises(ValueError, match="no"):
        stream.set_knobs((("sink_size", 9.0),))
    assert hashes(stream, 3) == undisturbed[:3]
    assert fleet.losses == 0
    assert model.text.unknown_words("rde") == {"rde": ("red",)}
    fleet.close()


def test_without_any_engine_a_film_ends_with_a_sentence_and_other_weights_are_refused(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "_AGAIN_SECONDS", 0.0)
    fleet = Fleet(yard, patience=0.05)
    stream = far(fleet).new_stream(5, ())
    yard.refuses, yard.engines[0].killed = ValueError("no room"), True
    with pytest.raises(RuntimeError, match="No engine of the cluster is left"):
        stream.next_chunk(BALL)
    fleet.close()
    other = Fleet(yard)
    yard.refuses = None
    far(other)
    monkeypatch.setattr(Engine, "load", lambda engine: ModelFacts(**{**FACTS, "checksum": "1" * 64}))
    with pytest.raises(ValueError, match="has other weights"):
        other.open()
    assert yard.engines[-1].ended
    other.close()


FACTS = {name: getattr(Engine().load(), name) for name in ModelFacts.__dataclass_fields__}


@pytest.fixture
def gateway(yard: Yard, tmp_path: Path) -> Iterator[ClusterEngine]:
    """Up to two engines of two films, in real time."""
    request: Any = SimpleNamespace()
    engine = ClusterEngine(
        Fleet(yard), request, most=2, films=2, folder=tmp_path, prompt="a red fox runs", seed=5, idle=0.0
    )
    engine.start()
    yield engine
    engine.close(20.0)


def opened(gateway: ClusterEngine, name: str | None = None) -> Any:
    """A session as the lobby opens it: asked again while all are taken."""
    end = time.monotonic() + 20
    while True:
        try:
            return gateway.open(name)
        except Busy:
            assert time.monotonic() < end
            time.sleep(0.002)


def test_engines_come_with_the_films_and_go_with_them_and_the_last_visitor_waits(
    gateway: ClusterEngine, yard: Yard
) -> None:
    films = [opened(gateway) for _ in range(2)]
    assert len(yard.engines) == 1
    films += [opened(gateway) for _ in range(2)]
    assert len(yard.engines) == 2
    assert len({film.id for film in films}) == 4
    for _ in range(3):
        with pytest.raises(Busy):
            gateway.open()
    assert gateway.open(films[3].id) is films[3]  # it stays with its engine
    figures = gateway.metrics()
    assert (figures["sessions"], figures["engines"], figures["engines_lost"]) == (4, 2, 0)
    assert gateway._files.open_films() == {
        film.id for film in films
    }  # of both engines: neither sweeps the other's away
    for film in films[2:]:
        film.end("stopped")
        film.studio.wake()
    wait(lambda: len(gateway.metrics()) and gateway.metrics()["sessions"] == 2)
    wait(lambda: gateway.look_after() or gateway.metrics()["engines"] == 1)
    assert yard.engines[1].ended
    assert opened_after(gateway)
    for film in films[:2]:
        film.end("the test is over")


def opened_after(gateway: ClusterEngine) -> bool:
    """Whether a further film finds an engine again."""
    film = opened(gateway)
    found = gateway.metrics()["engines"] == 2
    film.end("stopped")
    return found


def test_an_engine_that_cannot_begin_is_told_to_whoever_asks(tmp_path: Path, yard: Yard) -> None:
    yard.refuses = ValueError("the model is not here: pull it")
    request: Any = SimpleNamespace()
    gateway = ClusterEngine(Fleet(yard), request, most=2, films=2, folder=tmp_path, prompt="a fox")
    gateway.start()
    with pytest.raises(ValueError, match="pull it"):
        gateway.open()
    gateway.look_after()
    with pytest.raises(ValueError, match="pull it"):
        gateway.open()
    assert not gateway.ready
    gateway.close(20.0)


def test_an_engine_that_was_killed_while_it_began_is_begun_again(tmp_path: Path, yard: Yard) -> None:
    yard.refuses = RuntimeError("An engine did not start")
    request: Any = SimpleNamespace()
    gateway = ClusterEngine(Fleet(yard), request, most=2, films=2, folder=tmp_path, prompt="a fox")
    gateway.start()
    with pytest.raises(RuntimeError, match="did not start"):
        gateway.open()
    gateway.look_after()
    yard.refuses = None
    film = opened(gateway)
    assert len(yard.engines) == 1
    film.end("the test is over")
    gateway.close(20.0)


def test_there_is_room_for_as_many_engines_as_cores_or_gpus_allow() -> None:
    nodes = [Node("a", 5, 2), Node("b", 1, 0), Node("c", 8, 1)]
    assert room_for(nodes, 2, 0) == 6
    assert room_for(nodes, 1, 1) == 3
