"""A render that runs out of memory goes on with a smaller plan, whole, and its record says what was traded."""

from __future__ import annotations

import io
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from rich.console import Console

from app.errors import RenderFailure, UsageMistake, card_out_of_memory, explain, out_of_memory
from app.loading.engine_request import EngineRequest
from app.loading.fitting import smaller
from app.loading.model import Opened, open_stream
from app.record import sidecar
from app.record.held import PlanRecord, check_plans
from app.record.request import RenderRequest, request_of
from app.render import memory
from app.render.render import render
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from pipelines import components
from pipelines.memory_plan import PLANS, MemoryPlan, preset_under, read_memory_plan
from pipelines.presets import PRESETS
from pipelines.streaming import Stream
from tests.app_doubles import Opener, save_tiny_model
from tests.media.test_video import decode
from tests.render.test_render import film_request, run

FORMS: dict[str, Callable[[], Exception]] = {
    "torch": torch.OutOfMemoryError,
    "CUDA": lambda: RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "host": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    "Python": MemoryError,
}


class Killed(BaseException):
    """As a kill."""


@pytest.fixture(autouse=True)
def _on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are counted as for a card: on a CPU, what is put aside lies in the same memory."""
    monkeypatch.setattr(components, "choose_device", lambda device: ("cuda", torch.bfloat16))


def request_in(folder: Path, *, resume: bool = False, vram: str | None = None, vae: str = "auto") -> RenderRequest:
    """7 chunks in segments of 3, by a model that has plans."""
    engine = EngineRequest(PRESETS["longlive"], vram=vram, vae=vae)
    return replace(film_request(folder, duration="81f", resume=resume), engine=engine)


class Card(Opener):
    """Opens painted streams, and raises where it is told to: at a place, so many times.

    Args:
        places: `load`, `restore`, `save`, or the number of a chunk; each counts down.
        error: what is raised.
    """

    def __init__(self, places: dict[str | int, int], error: Callable[[], Exception] = torch.OutOfMemoryError) -> None:
        super().__init__(lambda index: self._fail(index))
        self.places, self.error = dict(places), error
        self.requests: list[EngineRequest] = []
        self.kill: int | None = None

    def _fail(self, place: str | int) -> None:
        if place == self.kill:
            raise Killed
        if self.places.get(place, 0):
            self.places[place] -= 1
            raise self.error()

    def __call__(self, request: EngineRequest, seed: int) -> Opened:
        self.requests.append(request)
        self._fail("load")
        opened = super().__call__(request, seed)

        def save(path: Path) -> str:
            self._fail("save")
            return opened.save(path)

        def restore(path: Path, sha256: str) -> None:
            self._fail("restore")
            opened.restore(path, sha256)

        return replace(opened, save=save, restore=restore)

    @property
    def plans(self) -> list[str]:
        """Under which plans it was opened."""
        return ["" if each.plan is None else each.plan.written for each in self.requests]


def held(folder: Path) -> list[tuple[int, str, str]]:
    """What the record says of how the film was held."""
    return [(each.chunk, each.plan, each.why) for each in sidecar.read(folder / "out.json").config.plans]


@pytest.mark.parametrize("form", FORMS)
def test_out_of_memory_in_the_middle_goes_on_from_the_last_snapshot_with_a_smaller_plan(
    form: str, tmp_path: Path
) -> None:
    card = Card({4: 1}, FORMS[form])
    code, printed = run(request_in(tmp_path), card)
    assert code == 0
    record = sidecar.read(tmp_path / "out.json")
    assert (record.status, len(record.chunks)) == ("whole", 7)
    smallest = card.plans[-1]
    assert card.plans == ["", smallest]
    assert held(tmp_path) == [(3, smallest, "memory")]
    assert len(card.streams[1].asked) == 4  # from the snapshot before chunk 3 on
    assert "Out of memory in the film. The film goes on from chunk 3 on with" in " ".join(printed.split())
    assert all(phrase in " ".join(printed.split()) for phrase in read_memory_plan(smallest).traded)
    assert not (tmp_path / "out.part").exists()


@pytest.mark.parametrize(
    ("places", "plans"),
    [
        ({"load": 1}, [0]),
        ({2: 1}, [0]),  # nothing is safe yet: anything may be traded
        ({"save": 1}, [0]),  # of the first snapshot
        ({4: 1, "restore": 1}, [3]),
        ({4: 1, 5: 1}, [3]),
        ({4: 1, 6: 1}, [3, 6]),
        ({"load": 2, 5: 1}, [0, 3]),
    ],
    ids=str,
)
def test_wherever_memory_runs_out_the_film_is_whole_and_its_record_true(
    places: dict[str | int, int], plans: Sequence[int], tmp_path: Path
) -> None:
    plain, card = tmp_path / "plain", Card(places)
    plain.mkdir()
    assert run(request_in(tmp_path), card)[0] == run(request_in(plain))[0] == 0
    assert not any(card.places.values())
    assert (tmp_path / "out.mp4").read_bytes() != (plain / "out.mp4").read_bytes()  # for it carries its record
    assert decode(tmp_path / "out.mp4").tobytes() == decode(plain / "out.mp4").tobytes()
    assert held(plain) == []
    told = held(tmp_path)
    assert [chunk for chunk, _, _ in told] == list(plans)
    assert told[-1][1] == card.plans[-1]
    assert len(set(card.plans)) == 1 + sum(places.values())  # each time a smaller one


def test_what_a_film_has_begun_with_it_keeps(tmp_path: Path) -> None:
    card = Card({4: 2})
    run(request_in(tmp_path, vae="full"), card)
    begun = [MemoryPlan(), *(each.plan for each in card.requests if each.plan is not None)]
    assert len(begun) == 3
    assert all(after.goes_on_from(before) for before, after in pairwise(begun))


@pytest.mark.parametrize("segment_chunks", [3, 4])  # of four, none begins where the plan changes
def test_a_record_makes_the_same_changes_again(segment_chunks: int, tmp_path: Path) -> None:
    run(request_in(tmp_path), Card({4: 1}))
    record = sidecar.read(tmp_path / "out.json")
    again = tmp_path / "again.mp4"
    request = request_of(record.config, seed=record.seed, model="longlive-1.3b", source="it", output=again)
    card = Card({})
    assert run(replace(request, segment_chunks=segment_chunks), card)[0] == 0
    assert card.plans == ["", record.config.plans[0].plan]
    assert [len(stream.asked) for stream in card.streams] == [3, 4]
    made = sidecar.read(tmp_path / "again.json")
    assert made.config.plans == record.config.plans
    assert made.film.sha256 == record.film.sha256
    if segment_chunks == request.segment_chunks:
        assert decode(again).tobytes() == decode(tmp_path / "out.mp4").tobytes()


@pytest.mark.parametrize("plans", [[(6, "text"), (3, "text+fp8")], [(6, "text+tiny")], [(0, "text+fp8+tiny")]])
def test_a_record_whose_plans_no_film_can_have_had_is_refused(plans: list[tuple[int, str]]) -> None:
    with pytest.raises((UsageMistake, ValueError), match="plan"):
        check_plans([PlanRecord(chunk=chunk, plan=plan, why="memory") for chunk, plan in plans], "it")


def test_a_film_that_is_killed_later_goes_on_under_the_plan_it_had_come_to(tmp_path: Path) -> None:
    card = Card({4: 1})
    card.kill = 5
    with pytest.raises(RenderFailure, match="Killed"):
        run(request_in(tmp_path), card)
    after = Card({})
    assert run(request_in(tmp_path, resume=True), after)[0] == 0
    assert after.plans == [card.plans[-1]]
    assert len(after.streams[0].asked) == 4
    assert held(tmp_path) == [(3, card.plans[-1], "memory")]


def test_where_no_plan_is_smaller_one_sentence_says_what_is_left_and_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(RenderFailure) as failed:
        run(film_request(tmp_path, duration="81f"), Card({4: 99}))  # the model that ships has no plans
    told = str(failed.value)
    assert told.startswith("The card is out of memory. The first ")
    assert told.endswith(f"go on: rivulet render --resume -o {tmp_path / 'out.mp4'}")
    assert len(decode(tmp_path / "out.part.mp4")) > 30
    assert run(film_request(tmp_path, duration="81f", resume=True))[0] == 0
    assert held(tmp_path) == []


def test_a_film_with_snapshots_that_has_no_smaller_plan_names_the_one_for_a_new_one(tmp_path: Path) -> None:
    with pytest.raises(RenderFailure, match=r"begun anew, .* --overwrite --vram \S+\.$"):
        run(request_in(tmp_path), Card({4: 99}))
    lines = (tmp_path / "out.part" / "journal.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["begun"]["config"]["plans"]


def test_pictures_begin_anew(tmp_path: Path) -> None:
    card = Card({2: 1})
    request = replace(request_in(tmp_path), output=tmp_path / "frames" / "f_%03d.png")
    (tmp_path / "frames").mkdir()
    assert run(request, card)[0] == 0
    assert len(list((tmp_path / "frames").glob("*.png"))) == 81
    assert len(card.streams[1].asked) == 7


def test_every_plan_is_written_and_read_and_smaller_than_what_comes_before_it() -> None:
    assert [read_memory_plan(plan.written) for plan in PLANS] == list(PLANS)
    with pytest.raises(ValueError, match="no plan trades 'bf8'"):
        read_memory_plan("text+bf8")
    engine, seen = EngineRequest(PRESETS["longlive"]), list[str]()
    while (after := smaller(engine, begun=False)) is not None:
        assert after.plan is not None
        assert after.preset == preset_under(after.plan, PRESETS["longlive"])
        seen.append(after.plan.written)
        engine = after
    assert seen[-1] == PLANS[-1].written
    assert engine.preset.kv_cache_dtype == "int8"
    assert smaller(EngineRequest(PRESETS["embedded"]), begun=False) is None
    assert smaller(replace(EngineRequest(PRESETS["longlive"]), parallel="levels=2"), begun=False) is None


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_error_is_known(form: str) -> None:
    error = FORMS[form]()
    assert out_of_memory(error)
    assert card_out_of_memory(error) == (form in ("torch", "CUDA", "cuBLAS"))
    assert explain(error)[1] == 1
    assert not out_of_memory(RuntimeError("the memory of a fox"))


@pytest.mark.parametrize("place", ["denoise", "decode", "snapshot"])
def test_a_real_film_goes_on_and_nothing_of_the_larger_model_is_left_when_the_smaller_one_loads(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "choose_device", lambda device: ("cpu", torch.float32))
    folder = save_tiny_model(tmp_path / "model")
    engine = EngineRequest(PRESETS["embedded"], model=str(folder), untrained=True, device="cpu", threads=1)
    monkeypatch.setattr(
        memory, "smaller", lambda now, *, begun: replace(now, plan=MemoryPlan("fp8")) if now.plan is None else None
    )
    owner, name = {
        "denoise": (CausalWanTransformer3DModel, "forward"),
        "decode": (AutoencoderTAEHV, "decode_stream"),
        "snapshot": (Stream, "snapshot"),
    }[place]
    original, left = getattr(owner, name), [{"denoise": 22, "decode": 4, "snapshot": 2}[place]]

    def full(self: Any, *args: Any, **settings: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, *args, **settings)

    monkeypatch.setattr(owner, name, full)
    loaded: list[Any] = []

    def opener(request: EngineRequest, seed: int) -> Opened:
        assert all(each() is None for each in loaded), "the larger model is still in memory"
        opened = open_stream(request, seed)
        loaded.append(weakref.ref(cast("Stream", opened.stream).engine.transformer))
        return opened

    request = replace(film_request(tmp_path, "a red ball", duration="57f", segment_chunks=2), engine=engine)
    assert render(request, console=Console(file=io.StringIO()), opener=opener) == 0
    assert left[0] < 0
    assert len(loaded) == 2
    record = sidecar.read(tmp_path / "out.json")
    (changed,) = record.config.plans
    assert (changed.plan, changed.why, changed.chunk % 2) == ("fp8", "memory", 0)
    assert len(decode(tmp_path / "out.mp4")) == 57
    again = request_of(record.config, seed=record.seed, model=str(folder), source="it", output=tmp_path / "again.mp4")
    assert render(again, console=Console(file=io.StringIO()), opener=open_stream) == 0
    assert sidecar.read(tmp_path / "again.json").film.sha256 == record.film.sha256  # bit for bit, plan for plan
