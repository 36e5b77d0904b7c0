"""A live film that runs out of memory goes on under a smaller plan, with all others, and its log makes it again."""

from __future__ import annotations

import io
import logging
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from app.errors import explain
from app.live.messages import Done, Problem
from app.loading import held as held_models
from app.loading.engine_request import EngineRequest
from app.loading.held import HeldModel, NoSmallerPlan
from app.loading.live import EngineStream, LiveModel
from app.record.provenance import record_of_log
from app.record.session_log import read_log
from app.render.replay_log import replay_log
from pipelines.memory_plan import MemoryPlan, read_memory_plan
from pipelines.presets import PRESETS
from pipelines.types import Controls
from tests.app_doubles import save_tiny_model
from tests.live_tiny import Clock, Stage, TinyModel, Watcher, say


class Shelf:
    """How a model that does not change lies in memory: `plans` are those it can come to."""

    def __init__(self, model: TinyModel, *plans: str) -> None:
        self._model, self._plans = model, list(plans)
        self.plan, self.held_as = "", list[str]()
        self.request: Any = EngineRequest(PRESETS["embedded"], vram="12GB", loras=("a.safetensors:0.5",))
        self.broken: Exception | None = None

    @property
    def can_shrink(self) -> bool:
        return bool(self._plans)

    def shrink(self) -> tuple[str, ...]:
        if self.broken is not None:
            raise self.broken
        self._model.broken = None
        self.plan = self._plans.pop(0)
        return read_memory_plan(self.plan).traded

    def hold_as(self, plan: MemoryPlan) -> None:
        self.plan = plan.written
        self.held_as.append(self.plan)


class Shelved(TinyModel):
    """A tiny model that lies on a shelf."""

    def __init__(self, clock: Clock, *plans: str) -> None:
        super().__init__(clock)
        self.shelf = Shelf(self, *plans)

    def __call__(self, request: Any = None) -> LiveModel:
        return replace(super().__call__(request), held=self.shelf)


def stage_of(folder: Path, *plans: str) -> tuple[Stage, Shelved]:
    """An engine whose model can come to these plans."""
    stage = Stage(folder)
    model = Shelved(stage.clock, *plans)
    stage.model, stage.engine._opener = model, model
    stage.engine.load()
    return stage, model


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("app.live.session").setLevel(logging.CRITICAL)


def problems(watcher: Watcher) -> list[str]:
    return [event.message for event in watcher.of(Problem) if event.code == "memory"]


def test_all_films_go_on_under_a_smaller_plan_and_the_log_makes_them_again(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path / "live", "text+fp8")
    with stage:
        watchers = [Watcher(stage.clock), Watcher(stage.clock)]
        sessions = [stage.open(), stage.open()]
        for session, watcher in zip(sessions, watchers, strict=True):
            session.attach(watcher)
        stage.play(3)
        sessions[0].submit(say("wolf", "a grey wolf", hold=60.0), watchers[0])
        model.broken = torch.OutOfMemoryError()  # the next chunk is that of the new prompt, or of the other film
        stage.play(6)
        for watcher in watchers:
            assert len(problems(watcher)) == 1
            assert "layers held in fp8" in problems(watcher)[0]
            frames = [frame.frame for frame in watcher.frames]
            assert frames == list(range(frames[0], frames[0] + len(frames)))  # nothing is missing, nothing twice
            assert len(frames) > 16 * 7
        assert watchers[0].applied("wolf") is not None
        stage.settle()
        log = read_log(sessions[0].folder / "session.jsonl")
        changed = [chunk.index for chunk in log.chunks if chunk.plan == "text+fp8"]
        assert 0 < changed[0] < changed[-1] == log.chunks[-1].index
        assert (log.header.vram, log.header.lora) == ("12GB", ["a.safetensors:0.5"])
        plans = record_of_log(log, "it").config.plans
        assert [(each.chunk, each.plan, each.why) for each in plans] == [(changed[0], "text+fp8", "memory")]
        opener = Shelved(Clock())
        opener.chunk_seconds = 0
        code = replay_log(
            sessions[0].folder / "session.jsonl",
            tmp_path / "again.mp4",
            check=True,
            overwrite=False,
            console=Console(file=io.StringIO()),
            parts=("lora",),
            opener=opener,
        )
        assert (code, opener.shelf.held_as) == (0, ["text+fp8"])


def test_a_film_without_a_copy_in_memory_goes_on_from_the_disk_or_begins_anew(tmp_path: Path) -> None:
    for saved in (True, False):
        stage, model = stage_of(tmp_path / str(saved), "text")
        with stage:
            stage.engine._undo_memory = 0
            session, watcher = stage.open(), Watcher(stage.clock)
            session.attach(watcher)
            stage.play(10 if saved else 1)
            stage.settle()
            before = session.film.chunk
            model.broken = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            stage.play(3)
            (told,) = problems(watcher)
            assert "are made again" in told
            assert session.film.branch == 1
            assert session.film.chunk < before + 5
            numbers = [frame.frame for frame in watcher.frames]
            back = [now for last, now in pairwise(numbers) if now < last]
            assert len(back) == 1
            assert (back[0] > 0) == saved


def test_without_a_smaller_plan_only_the_film_that_is_stuck_ends(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path)
    with stage:
        watchers = [Watcher(stage.clock), Watcher(stage.clock)]
        for watcher in watchers:
            stage.open().attach(watcher)
        stage.play(2)
        model.broken = torch.OutOfMemoryError()
        stage.play(0.1)
        while not any(watcher.of(Done) for watcher in watchers) and stage.clock.now < 1010:
            stage.play(0.05)
        model.broken = None
        stage.play(2)
        assert sorted(len(watcher.of(Done)) for watcher in watchers) == [0, 1]
        assert sorted(len(problems(watcher)) for watcher in watchers) == [0, 1]


def test_a_model_that_does_not_load_any_more_ends_all_films_in_a_sentence(tmp_path: Path) -> None:
    stage, model = stage_of(tmp_path, "text")
    with stage:
        watcher = Watcher(stage.clock)
        stage.open().attach(watcher)
        stage.play(2)
        model.broken, model.shelf.broken = torch.OutOfMemoryError(), NoSmallerPlan("none")
        stage.play(3)
        assert watcher.of(Done)
        assert problems(watcher)
        with pytest.raises(NoSmallerPlan):
            stage.engine.open()


def test_a_held_model_is_loaded_anew_under_the_plan_and_its_film_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_model(tmp_path)
    request = EngineRequest(PRESETS["embedded"], model=str(folder), untrained=True, device="cpu")
    plans = [MemoryPlan("fp8")]
    monkeypatch.setattr(
        held_models, "smaller", lambda now, *, begun: replace(now, plan=plans[0]) if now.plan is None else None
    )
    held = HeldModel(request)
    assert held.can_shrink
    stream = EngineStream(held.build, request.preset, "cpu", 3)
    for _ in range(2):
        stream.next_chunk(Controls("a red ball"))
    copy = stream.copy()
    exact = stream.next_chunk(Controls("a red ball")).sha256
    del stream
    assert held.shrink() == MemoryPlan("fp8").traded
    assert (held.plan, held.can_shrink) == ("fp8", False)
    weight = held.loaded.components.transformer.blocks[0].ffn.net[2].weight
    assert weight.dtype == torch.float8_e4m3fn
    after = EngineStream(held.build, request.preset, "cpu", 3)
    after.go_back(copy)
    chunk = after.next_chunk(Controls("a red ball"))
    assert (chunk.index, chunk.sha256 != exact) == (2, True)
    with pytest.raises(NoSmallerPlan):
        held.shrink()
    held.hold_as(MemoryPlan())
    again = EngineStream(held.build, request.preset, "cpu", 3)
    again.go_back(copy)
    assert again.next_chunk(Controls("a red ball")).sha256 == exact


def test_a_model_that_does_not_fit_when_it_is_loaded_is_held_smaller_and_nothing_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = EngineRequest(PRESETS["embedded"], model=str(save_tiny_model(tmp_path)), untrained=True, device="cpu")
    plans = [MemoryPlan("fp8"), MemoryPlan("fp8", layers="streamed")]
    monkeypatch.setattr(
        held_models, "smaller", lambda now, *, begun: replace(now, plan=plans.pop(0)) if plans else None
    )
    gone: list[Any] = []

    def small(self: HeldModel, preset: Any, seed: int) -> Any:
        assert all(each() is None for each in gone)
        gone.append(weakref.ref(self.loaded.components.transformer))
        if len(gone) < 3 or (not plans and full):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(self, preset, seed)

    build, full = HeldModel.build, False
    monkeypatch.setattr(HeldModel, "build", small)
    held = HeldModel(request)
    assert (held.plan, len(gone)) == ("fp8+streamed", 3)
    assert caplog.text.count("Out of memory while loading") == 2
    full, held = True, None  # type: ignore[assignment]
    gone.clear()
    plans.append(MemoryPlan("fp8"))
    with pytest.raises(NoSmallerPlan, match="does not fit into this card's memory"):
        HeldModel(request)
    told, code = explain(NoSmallerPlan("it does not fit"))
    assert (told, code) == ("it does not fit", 1)
