"""A film on two ranks is the film of one process: every plan, over gloo, with switches, undo and resume in it.

One crew serves the file; the last test kills it. The same runs on NCCL where there are two devices (`multigpu`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from models.attention import attend
from models.transformer import Batch
from parallel import LinkLost, heads
from parallel.frames import GatheringAttnProcessor
from parallel.handover import LevelHandover
from parallel.plan import Costs
from parallel.stages import StageRunner
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.streaming import Stream
from pipelines.types import Controls, Transition
from tests.parallel import films
from tests.parallel.crew import Crew, Make, alone, crew_of
from tests.tiny import FOX, HEIGHT, WIDTH, WOLF, gap

BIRD = Controls("a green bird sings", Transition("cut"))
SCRIPT = [FOX] * 18 + [WOLF] * 20 + [BIRD] * 12
"""Fifty chunks: the memory is full before the switch, and fills again behind the cut."""


@pytest.fixture(scope="module", params=["gloo", pytest.param("nccl", marks=pytest.mark.multigpu)])
def crew(request: pytest.FixtureRequest) -> Generator[Crew]:
    with crew_of(2, request.param) as crew:
        yield crew


def hashes(stream: Stream, script: Sequence[Controls], *, undo_at: int = -1, resume: Path | None = None) -> list[str]:
    """Of the chunks of a script; one chunk is made, undone and made again, and the film goes on from a file."""
    decode, out = stream.engine.autoencoder is not None, list[str]()
    for index, controls in enumerate(script):
        before = stream.snapshot() if index == undo_at else None
        chunk = stream.next_chunk(controls, decode=decode)
        if before is not None:
            stream.next_chunk(WOLF, decode=decode)
            stream.restore(before)
            chunk = stream.next_chunk(controls, decode=decode)
        if resume is not None and index == undo_at + 5:
            sha256 = save_snapshot(stream.snapshot(), resume)
            stream.next_chunk(WOLF, decode=decode)
            stream.restore(load_snapshot(resume, sha256=sha256))
        out.append(chunk.sha256)
    return out


@pytest.mark.parametrize(
    ("plan", "make", "costs"),
    [
        ("levels", films.stream_batch, Costs(1.0, 1.5)),
        ("layers", films.stream_batch, Costs()),
        ("layers", films.clean, Costs(1.0, 0.6)),
        ("cascade", films.cascade, Costs()),
    ],
)
def test_levels_layers_and_cascades_are_one_process_bit_for_bit(
    crew: Crew, tmp_path: Path, plan: str, make: Make, costs: Costs
) -> None:
    once = hashes(crew.alone(make, plan, seed=3), SCRIPT)
    lead = crew.stream(make, plan, costs, seed=3)
    assert hashes(lead, SCRIPT, undo_at=22, resume=tmp_path / "film.safetensors") == once
    assert len(set(once)) == len(once)


def test_rows_that_go_through_the_model_together_have_the_bits_of_rows_apart() -> None:
    make = films.stream_batch_latents
    assert hashes(alone(make, seed=3), [FOX] * 10) == hashes(alone(make, "levels", seed=3), [FOX] * 10)


def latents(stream: Stream, script: Sequence[Controls]) -> list[torch.Tensor]:
    return [stream.state.latents.get(stream.next_chunk(each, decode=False).latent) for each in script]


@pytest.mark.parametrize(
    ("make", "most"),
    [(films.clean_64, 1e-12), (films.deep, 1e-12), (films.refreshed, 1e-12), (films.clean, 1e-5)],
)
def test_ulysses_is_one_process_but_for_rounding(crew: Crew, make: Make, most: float) -> None:
    script = [FOX] * 8 + [WOLF] * 6
    lead = crew.stream(make, "ulysses", seed=5)
    here, there = lead.state.kv[0].tensors()["keys"], crew.alone(make, seed=5).state.kv[0].tensors()["keys"]
    assert here.nelement() * 2 == there.nelement()  # each rank remembers its heads
    theirs = latents(crew.alone(make, seed=5), script)
    for one, other in zip(latents(lead, script), theirs, strict=True):
        assert gap(one, other) < most
    assert gap(theirs[-1], latents(crew.alone(make, seed=6), script)[-1]) > 1e-2


@pytest.mark.parametrize(("make", "most"), [(films.joint, 1e-12), (films.scoped, 1e-12), (films.joint_32, 1e-5)])
def test_clips_of_a_joint_window_are_one_process_but_for_rounding(crew: Crew, make: Make, most: float) -> None:
    """Switch, undo and a cut in it: windows fill from one chunk on, three frames on two ranks first."""
    script = [FOX] * 6 + [WOLF] * 3 + [BIRD] * 3
    lead, one = crew.stream(make, "clips", seed=5), crew.alone(make, seed=5)
    before = None
    for index, controls in enumerate(script):
        if index == 4:
            before = lead.snapshot()
            lead.next_chunk(WOLF, decode=False)
            lead.restore(before)
        (mine,), (theirs,) = latents(lead, [controls]), latents(one, [controls])
        assert gap(mine, theirs) < most
    assert before is not None
    one.restore(before)  # the snapshot is that of one process
    (again,) = latents(one, [FOX])
    assert gap(again, latents(crew.alone(make, seed=5), script[:5])[-1]) < most
    assert gap(again, latents(crew.alone(make, seed=6), script[:5])[-1]) > 1e-2


def test_only_keys_of_what_a_clip_sees_travel(crew: Crew) -> None:
    frame = (HEIGHT // 2) * (WIDTH // 2) * 64 * 8  # of one of keys and values, float64
    for make, seen in ((films.joint, 6), (films.scoped, 2)):  # all that are ours; or a neighbour and one that is spread
        lead = crew.stream(make, "clips")
        for _ in range(6):
            lead.next_chunk(FOX, decode=False)
        crew.link.bytes.clear()
        lead.next_chunk(FOX, decode=False)
        # Two layers; the pass that writes the memory has three frames, one of which is ours, and goes to all.
        assert crew.link.bytes["keys, values"] == 2 * frame * (2 * seen + 2 * 1)


def test_seven_heads_and_an_odd_number_of_tokens_are_shared_unevenly(crew: Crew) -> None:
    script = [FOX] * 5
    lead = crew.stream(films.uneven, "ulysses")
    assert [len(lead.share.heads), lead.state.kv[0].shape.heads] == [1, 1]
    for one, other in zip(latents(lead, script), latents(crew.alone(films.uneven), script), strict=True):
        assert gap(one, other) < 1e-12


def test_only_latents_travel_between_levels_and_no_rank_has_anothers_memory(crew: Crew) -> None:
    lead = crew.stream(films.stream_batch, "levels")
    for _ in range(6):
        lead.next_chunk(FOX)
    crew.link.messages.clear()
    crew.link.bytes.clear()
    for _ in range(10):
        lead.next_chunk(FOX)
    frame = 4 * HEIGHT * WIDTH * 4  # float32
    assert dict(crew.link.messages) == {"latents": 10}  # and one comes back, finished
    assert dict(crew.link.bytes) == {"latents": 10 * frame}
    assert [store.shape.capacity for store in lead.state.kv] == [6, 6, 0, 0]
    part = crew.ask(("part",))[0]["kv"]
    assert [each["keys"].shape[2] for each in part] == [0, 0, 6, 6]


def test_a_residual_stream_a_row_travels_between_layers(crew: Crew) -> None:
    lead = crew.stream(films.clean, "layers")
    lead.next_chunk(FOX)
    crew.link.messages.clear()
    crew.link.bytes.clear()
    lead.next_chunk(FOX)
    assert dict(crew.link.messages) == {"residual streams": 3}  # two levels and the clean pass
    assert dict(crew.link.bytes) == {"residual streams": 3 * 3 * (HEIGHT // 2) * (WIDTH // 2) * 64 * 4}
    assert len(lead.engine.transformer.blocks) == len(lead.share.layers) == 1  # pyright: ignore
    assert [len(store.tensors()["keys"]) for store in lead.state.kv] == [1]


def test_new_queries_keys_and_values_are_swapped_and_nothing_that_is_remembered(crew: Crew) -> None:
    lead = crew.stream(films.clean_64, "ulysses")
    for _ in range(4):
        lead.next_chunk(FOX, decode=False)
    crew.link.bytes.clear()
    lead.next_chunk(FOX, decode=False)
    hidden = 3 * (HEIGHT // 2) * (WIDTH // 2) * 64 * 8  # of a chunk in float64; a quarter of it is ours, and leaves
    layers = 3 * 3 - 1  # two levels and the clean pass, which ends with the keys of its last layer
    swapped = crew.link.bytes
    assert swapped["attended"] == layers * hidden / 4
    assert swapped["queries, keys, values"] == (layers + 1) * 3 * hidden / 4


def test_a_snapshot_is_read_back_under_another_plan_and_by_one_process(crew: Crew) -> None:
    make = films.stream_batch
    lead = crew.stream(make, "levels", seed=9)
    hashes(lead, [FOX] * 9)
    snapshot = lead.snapshot()
    on = hashes(lead, [FOX] * 3 + [WOLF] * 5)
    by_layers, single = crew.stream(make, "layers", seed=1), crew.alone(make, "levels", seed=2)
    for other in (by_layers, single):
        other.restore(snapshot)
        assert hashes(other, [FOX] * 3 + [WOLF] * 5) == on


def test_a_rank_that_sleeps_changes_time_and_no_picture(crew: Crew) -> None:
    make = films.stream_batch
    once, lead = hashes(crew.alone(make, "levels"), [FOX] * 8), crew.stream(make, "levels")
    begun, out = time.monotonic(), list[str]()
    for index in range(8):
        if index in (2, 6):
            crew.calls.tell(("sleep", 0.3))
        out += hashes(lead, [FOX])
    assert out == once
    assert time.monotonic() - begun > 0.5


def test_a_film_begins_with_pictures_and_is_guided_under_every_plan(crew: Crew) -> None:
    guided = [Controls(FOX.prompt, guidance_scale=2.0)] * 3
    for plan, make in (("levels", films.stream_batch), ("layers", films.clean), ("ulysses", films.clean)):
        lead, one = crew.stream(make, plan, seed=2), crew.alone(make, plan, seed=2)
        for stream in (lead, one):
            stream.prefill(torch.ones(1, 3, 4, HEIGHT, WIDTH), FOX)
        assert gap(latents(lead, guided)[-1], latents(one, guided)[-1]) < 1e-5, plan


# ------------------------------------------------------------------ these tests can fail


def _swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two chunks in flight the wrong one is sent to its next level."""
    move: Any = LevelHandover._move  # pyright: ignore[reportPrivateUsage]

    def wrong(self: Any, moves: Any, state: Any) -> None:
        get = state.flight.get
        state.flight.get = lambda frames: get(range(frames.start + 1, frames.stop + 1))
        move(self, moves, state)
        state.flight.get = get

    monkeypatch.setattr(LevelHandover, "_move", wrong)


def _turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flows of rows come back in the wrong order."""
    run = StageRunner.run

    def turned(self: StageRunner, batches: Sequence[Batch]) -> Sequence[torch.Tensor]:
        return run(self, batches)[::-1]

    monkeypatch.setattr(StageRunner, "run", turned)


def _lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank's heads remember nothing of what they see."""

    def forgetful(processor: Any, context: Any, *tensors: Any) -> Any:
        return attend(processor, context._replace(memory=context.memory._replace(leave=None)), *tensors)

    monkeypatch.setattr(heads, "attend", forgetful)


def _unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of the other rank's frames is zeros."""
    gathered = GatheringAttnProcessor._gathered  # pyright: ignore[reportPrivateUsage]

    def short(self: Any, parts: torch.Tensor, clip: range) -> torch.Tensor:
        whole, own = torch.zeros_like(gathered(self, parts, clip)), parts.shape[2]
        first = clip.start * own // len(clip)
        whole[:, :, first : first + own] = parts
        return whole

    monkeypatch.setattr(GatheringAttnProcessor, "_gathered", short)


@pytest.mark.parametrize(
    ("plan", "make", "spoil"),
    [
        ("levels", films.stream_batch_latents, _swapped),
        ("layers", films.stream_batch, _turned),
        ("ulysses", films.clean_64, _lost),
        ("clips", films.joint, _unseen),
    ],
)
def test_a_plan_with_a_mistake_in_it_makes_another_film(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, plan: str, make: Make, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    script = [FOX] * 7
    lead = crew.stream(make, plan)
    spoil(monkeypatch)
    spoilt = latents(lead, script)
    right = latents(crew.alone(make, plan), script)
    assert max(gap(one, other) for one, other in zip(spoilt, right, strict=True)) > 1e-3


# ------------------------------------------------------------------ ends


def test_what_is_no_film_of_one_process_is_refused(crew: Crew) -> None:
    lead = crew.stream(films.clean, "layers")
    lead.next_chunk(FOX)
    with pytest.raises(ValueError, match="no twin"):
        lead.fork()
    lead.next_chunk(FOX, decode=False)
    with pytest.raises(ValueError, match="decode every chunk"):  # before anybody is told
        lead.next_chunk(FOX)
    lead.next_chunk(FOX, decode=False)


def test_a_killed_rank_is_one_sentence_within_ten_seconds(crew: Crew) -> None:
    lead = crew.stream(films.stream_batch, "levels")
    lead.next_chunk(FOX)
    begun = time.monotonic()
    os.kill(crew.processes[0].pid, signal.SIGKILL)
    with pytest.raises(LinkLost, match=r"^Rank 1 is gone \(it ended with code -9\)\.$"):
        hashes(lead, [FOX] * 3, undo_at=1)
    assert time.monotonic() - begun < 10
