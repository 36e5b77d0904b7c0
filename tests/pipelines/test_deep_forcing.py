"""Deep Forcing: a sink that keeps up, and tokens chosen in every layer, against a choice made a second time by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cache.deep_forcing import DeepForcing, DeepSink
from cache.kv import KVStore
from cache.positions import Absolute, MovedSink
from cache.scorers.logit_sum import LogitSum
from cache.switches import Keep, Recache
from cache.types import NATIVE, CachePolicy, Evict, Pass, Prune, Rebase, Row, Slot, SlotRange, Slots
from cache.windows import AllRemembered
from pipelines.build import make_policies
from pipelines.engine import Engine
from pipelines.presets import PRESETS
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.streaming import Stream
from pipelines.tree import copied, put_back
from pipelines.types import Controls, Transition
from schedulers.serial import Serial
from tests.reference import rotated, rotations
from tests.tiny import CHANNELS, FOX, HEIGHT, WIDTH, WOLF, film, gap, tiny_engine, tiny_stream, tiny_transformer

ROWS, COLUMNS = HEIGHT // 2, WIDTH // 2
TOKENS = ROWS * COLUMNS
SMALL = DeepForcing(window=8, sink=2, budget=6, recent=3, max_reuse=2)
"""Keeps one frame's worth of tokens: prunes at frames 8, 12, 16 ... of a film in chunks of two."""


def deep_engine(cache: CachePolicy = SMALL, *, chunk: int = 2, guidance: float = 1.0, **more: Any) -> Engine:
    """One noisy pass and a clean one each chunk, in float64."""
    settings: dict[str, Any] = {"levels": (1000.0,), "position": MovedSink(), "switch": Keep(), **more}
    model = settings.pop("model", None) or tiny_transformer(num_layers=2, dtype=torch.float64)
    engine = tiny_engine(model, chunk=chunk, cache=cache, **settings)
    return replace(engine, policies=replace(engine.policies, guidance_scale=guidance))


# ------------------------------------------------------------------ integers


@dataclass(frozen=True, slots=True)
class Watched:
    """`MovedSink` that writes down every answer, by the first frame of the pass."""

    answers: dict[int, list[tuple[list[int], list[int]]]] = field(default_factory=dict)

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        answer = MovedSink().place(row, ranges, slots)
        self.answers.setdefault(row.frames.start, []).append(answer)
        return answer


def placed(cache: CachePolicy, chunks: int) -> dict[int, tuple[list[int], list[int]]]:
    """Positions of queries and keys of each chunk, which all of its passes share."""
    position = Watched()
    engine = deep_engine(cache, chunk=3, position=position, model=tiny_transformer(num_layers=1))
    film(tiny_stream(engine), [FOX] * chunks)
    assert all(len(answers) == 2 and answers[0] == answers[1] for answers in position.answers.values())
    return {frame: answers[0] for frame, answers in position.answers.items()}


def test_positions_and_numbers_of_keys_are_those_of_the_released_system() -> None:
    """Kept tokens stand at their own frames; the sink moves at every second chunk, when tokens are chosen."""
    cache = PRESETS["deep-forcing"].cache
    at, kept = placed(cache, 13), [NATIVE, NATIVE]
    assert at[18] == ([18, 19, 20], [*range(21)])
    assert at[21] == ([21, 22, 23], [*range(5, 15), *kept, *range(20, 24)])
    assert at[24] == ([24, 25, 26], [*range(5, 15), *kept, *range(20, 27)])
    assert at[27] == ([27, 28, 29], [*range(11, 21), *kept, *range(26, 30)])
    assert at[33] == ([33, 34, 35], [*range(17, 27), *kept, *range(32, 36)])
    assert [len(keys) for _, keys in at.values()] == [3, 6, 9, 12, 15, 18, 21, 16, 19, 16, 19, 16, 19]


def test_a_deep_sink_alone_stays_still_at_the_first_roll_and_then_moves_with_every_chunk() -> None:
    at = placed(PRESETS["deep-forcing-sink"].cache, 11)
    assert at[18] == ([18, 19, 20], [*range(21)])
    assert at[21] == ([21, 22, 23], [*range(10), *range(13, 24)])
    assert at[24] == ([24, 25, 26], [*range(3, 13), *range(16, 27)])
    assert at[30] == ([30, 31, 32], [*range(9, 19), *range(22, 33)])


def slots(*frames: int, cur: int | None = None, base: int = 0, sink: int = 10) -> Slots:
    entries = [
        Slot(frame, "sink" if index < sink else "recent", base=base * (index < sink))
        for index, frame in enumerate(frames)
    ]
    return Slots(0, frames[-1] + 1 if cur is None else cur, tuple(entries))


def row_of(frames: range) -> Row:
    return Row(0, frames, (0.0,) * len(frames), (None,) * len(frames), "none", "noisy", 1, frames)


def test_recent_frames_are_counted_with_those_of_the_pass() -> None:
    policy = DeepForcing()
    full = slots(*range(21))
    assert policy.begin(row_of(range(21, 24)), full) == [Prune(range(10, 20), 2), Rebase(range(10), 5)]
    assert policy.begin(row_of(range(21, 25)), full) == [Prune(range(10, 21), 2), Rebase(range(10), 5)]
    assert policy.begin(row_of(range(21, 22)), full) == [Prune(range(10, 18), 2), Rebase(range(10), 5)]
    assert policy.begin(row_of(range(18, 21)), slots(*range(18))) == []


def test_a_sink_that_a_cut_began_later_is_moved_from_where_it_began() -> None:
    assert DeepForcing().begin(row_of(range(51, 54)), slots(*range(30, 51)))[1] == Rebase(range(10), 5)
    first, later = slots(*range(30, 51)), slots(*range(30, 40), *range(43, 54), base=4)
    assert DeepSink().begin(row_of(range(51, 54)), first) == [Evict(range(10, 13))]
    assert DeepSink().begin(row_of(range(54, 57)), later) == [Evict(range(10, 13)), Rebase(range(10), 7)]


def test_a_replay_takes_the_place_of_what_was_compressed_and_the_sink_stands_before_it() -> None:
    pruned = slots(*range(10), NATIVE, NATIVE, *range(20, 24))
    assert DeepForcing().begin(row_of(range(13, 24)), pruned) == [Evict(range(10, 16)), Rebase(range(10), 3)]
    assert DeepForcing().begin(row_of(range(20, 24)), pruned) == [], "all of it is there"


def test_budgets_without_room_for_tokens_or_beyond_the_window_are_the_nearest_that_work() -> None:
    full, new = slots(*range(21)), row_of(range(21, 24))
    assert DeepForcing(budget=3).begin(new, full) == [Evict(range(10, 20)), Rebase(range(10), 7)]
    assert DeepForcing(budget=90).begin(new, full) == [Prune(range(10, 20), 7), Rebase(range(10), 0)]


def test_settings_that_cannot_work_are_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"window of 21 .* sink of 18, 4 recent"):
        DeepForcing(sink=18)
    with pytest.raises(ValueError, match=r"make recent at least 5, or chunks shorter"):
        DeepForcing().begin(row_of(range(21, 26)), slots(*range(21)))
    with pytest.raises(ValueError, match=r"'deep-forcing' judges .* last 4 .* at least 6"):
        make_policies(replace(PRESETS["deep-forcing"], chunk=6))
    with pytest.raises(ValueError, match="at least one latent frame"):
        LogitSum(recent=0)


# ------------------------------------------------------------------ the choice, a second time

Place = tuple[int, int, int]
"""Frame, row and column of a token."""


class ByHand:
    """Chooses tokens with plain loops from queries that hooks overhear and keys as they were first remembered."""

    def __init__(self, engine: Engine, cache: DeepForcing, batch: int) -> None:
        self.model, self.cache, self.batch = engine.transformer, cache, batch
        self.layers = len(self.model.blocks)
        self.overheard: list[list[Tensor]] = [[] for _ in range(self.layers)]
        for layer, block in enumerate(self.model.blocks):
            block.attn1.norm_q.register_forward_hook(lambda _m, _i, out, layer=layer: self.overheard[layer].append(out))
        self.queries: list[list[Tensor]] = [[] for _ in range(self.layers)]
        self.remembered: dict[tuple[int, int, Place], tuple[Tensor, Tensor]] = {}
        self.kept: dict[tuple[int, int], list[Place]] = {}
        self.uses: dict[tuple[int, int, Place], int] = {}
        self.whole: list[int] = []
        self.choices = 0
        self.refused = 0

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        config = self.model.config
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        turn = rotations(list(row.frames), ROWS, COLUMNS, head_dim)
        for layer in range(self.layers):
            prompted = self.overheard[layer][0]  # with guidance there is a second, without the prompt
            q = rotated(prompted.reshape(self.batch, len(row.frames), TOKENS, heads, head_dim), turn)
            self.queries[layer] = [*self.queries[layer], *q.unbind(1)][-self.cache.recent :]
            self.overheard[layer].clear()
        new = [frame for frame in row.frames if frame not in self.whole]
        if work.kind == "denoise" and self._held() + len(new) > self.cache.window:
            self._choose(len(new))
        for layer in range(self.layers):
            self._compare(store, layer)
        if row.commit:
            self.whole += new
            for layer in range(self.layers):
                frames, keys, values = store.logical(layer)
                for frame in row.commit:
                    k, v = keys[:, frames.index(frame)].clone(), values[:, frames.index(frame)].clone()
                    for token in range(TOKENS):
                        for b in range(self.batch):
                            place = (frame, token // COLUMNS, token % COLUMNS)
                            self.remembered[layer, b, place] = k[b, token], v[b, token]

    def _held(self) -> int:
        return len(self.whole) + (len(self.kept[0, 0]) // TOKENS if self.kept else 0)

    def _choose(self, own: int) -> None:
        cache, last = self.cache, self.cache.recent - own
        count = (cache.budget - cache.sink - cache.recent) * TOKENS
        middle = self.whole[cache.sink : len(self.whole) - last]
        for layer in range(self.layers):
            for b in range(self.batch):
                candidates = self.kept.get((layer, b), []) + [
                    (frame, token // COLUMNS, token % COLUMNS) for frame in middle for token in range(TOKENS)
                ]
                score = {place: self._score(layer, b, place) for place in candidates}
                able = [p for p in candidates if self.uses.get((layer, b, p), 0) < cache.max_reuse]
                self.refused += len(candidates) - len(able)
                best = sorted(able, key=lambda place: -score[place])[:count]
                self.kept[layer, b] = [place for place in candidates if place in best]
                for place in best:
                    self.uses[layer, b, place] = self.uses.get((layer, b, place), 0) + 1
        self.whole = self.whole[: cache.sink] + self.whole[len(self.whole) - last :]
        self.choices += 1

    def _score(self, layer: int, b: int, place: Place) -> float:
        key = self.turned(layer, b, place)
        heads, head_dim = key.shape
        logits = [float(q[b, t, n] @ key[n]) for q in self.queries[layer] for t in range(TOKENS) for n in range(heads)]
        return sum(logits) / (head_dim**0.5 * heads)

    def turned(self, layer: int, b: int, place: Place) -> Tensor:
        """The remembered key, rotated at its own time, row and column, [N, D]."""
        frame, row, column = place
        key = self.remembered[layer, b, place][0]
        turn = rotations([frame], ROWS, COLUMNS, key.shape[-1])[:, row * COLUMNS + column :][:, :1]
        return rotated(key[None, None, None], turn)[0, 0, 0]

    def _compare(self, store: KVStore, layer: int) -> None:
        index = store.tokens(layer)
        part = slice(self.cache.sink * TOKENS, (self.cache.sink + self._held() - len(self.whole)) * TOKENS)
        _, keys, values = store.logical(layer)
        for b in range(self.batch if self.kept else 0):
            places = [tuple(entry) for entry in index[b, part].tolist()]
            wanted = self.kept[layer, b]
            assert places == [(*place, self.uses[layer, b, place]) for place in wanted], "other tokens were kept"
            k, v = (torch.stack(x) for x in zip(*(self.remembered[layer, b, p] for p in wanted), strict=True))
            assert torch.equal(keys[b].flatten(0, 1)[part], k), "a kept key is not the one first remembered"
            assert torch.equal(values[b].flatten(0, 1)[part], v)


@pytest.mark.parametrize(("batch", "guidance"), [(2, 1.0), (1, 2.5)])
def test_the_tokens_kept_are_those_that_the_last_queries_ask_for(batch: int, guidance: float) -> None:
    engine = deep_engine(guidance=guidance)
    by_hand = ByHand(engine, SMALL, batch)
    stream = tiny_stream(engine, seed=3, batch=batch, observer=by_hand)
    film(stream, [FOX] * 13)
    assert by_hand.choices == 5
    assert max(by_hand.uses.values()) == SMALL.max_reuse
    assert by_hand.refused > 0, "no token was chosen often enough to be refused"
    assert len({tuple(places) for places in by_hand.kept.values()}) == 2 * batch, "layers or films choose alike"


def test_kept_tokens_are_seen_at_their_own_time_row_and_column() -> None:
    """In the pass that chose them, and when the view is made anew from what was stored."""
    engine = deep_engine()
    by_hand = ByHand(engine, SMALL, 1)
    looks = 0

    def look(work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        nonlocal looks
        by_hand(work, row, x, flow, x0, store)
        if work.kind != "denoise" or not by_hand.kept:
            return
        slots = store.slots(row.frames.start)
        ranges = AllRemembered().select(row, slots)
        positions = MovedSink().place(row, ranges, slots)[1]
        for rebuilt in (False, True):
            if rebuilt:
                put_back(store, copied(store), torch.device("cpu"))
            for layer, memory in enumerate(store.read(ranges, positions, len(row.frames))):
                seen = memory.keys[0, 2 * TOKENS : 3 * TOKENS], memory.values[0, 2 * TOKENS : 3 * TOKENS]
                places = by_hand.kept[layer, 0]
                keys = torch.stack([by_hand.turned(layer, 0, place) for place in places])
                assert gap(seen[0], keys) < 1e-12
                assert torch.equal(seen[1], torch.stack([by_hand.remembered[layer, 0, p][1] for p in places]))
                sink = rotated(store.logical(layer)[1][:, :2], rotations(positions[:2], ROWS, COLUMNS, keys.shape[-1]))
                assert gap(memory.keys[:, : 2 * TOKENS], sink.flatten(1, 2)) < 1e-12, "the sink stands elsewhere"
                looks += 1
        store.stage([Slot(frame) for frame in row.frames])  # a restored store has nothing staged

    film(tiny_stream(engine, seed=3, observer=look), [FOX] * 9)
    assert looks == 2 * 2 * 5, "two layers, twice, in the passes of five chunks"


def test_tokens_used_up_stand_behind_all_others_in_their_own_order() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 4, 2, 6, generator=generator)
    keys, uses = torch.randn(1, 9, 2, 6, generator=generator), torch.tensor([[0, 7, 1, 7, 6, 7, 0, 0, 0]])
    free = LogitSum(4, 100).score(0, queries, keys, keys, uses)[0]
    order = LogitSum(4, 7).score(0, queries, keys, keys, uses)[0].argsort(descending=True).tolist()
    straight = free.argsort(descending=True).tolist()
    spent = [index for index in straight if index in (1, 3, 5)]
    assert order == [index for index in straight if index not in spent] + spent
    assert order != straight


# ------------------------------------------------------------------ films


class Backwards(LogitSum):
    """Keeps what is asked for least."""

    def score(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, uses: Tensor) -> Tensor:
        return -LogitSum.score(self, layer, queries, keys, values, uses)


@dataclass(frozen=True, slots=True)
class Least(DeepForcing):
    @property
    def scorer(self) -> LogitSum:
        return Backwards(self.recent, self.max_reuse)


def test_what_is_kept_and_where_the_sink_stands_is_felt_in_the_film() -> None:
    model = tiny_transformer(num_layers=2, dtype=torch.float64)
    deep = film(tiny_stream(deep_engine(model=model)), [FOX] * 6)
    least = film(tiny_stream(deep_engine(Least(8, 2, 6, 3, 2), model=model)), [FOX] * 6)
    still = film(tiny_stream(deep_engine(model=model, position=Absolute())), [FOX] * 6)
    assert deep[:4] == least[:4] == still[:4]
    assert len({deep[4], least[4], still[4]}) == 3


def test_a_film_goes_on_from_a_snapshot_and_from_a_file_bit_for_bit(tmp_path: Path) -> None:
    engine = deep_engine()
    stream, after = tiny_stream(engine, seed=9), dict[int, Any]()
    hashes: list[str] = []
    for chunk in range(12):
        after[chunk] = stream.snapshot()
        hashes += film(stream, [FOX])
    for start in (4, 5, 8):
        save_snapshot(after[start], tmp_path / "state.safetensors")
        for snapshot in (after[start], load_snapshot(tmp_path / "state.safetensors")):
            again = tiny_stream(engine, seed=77)
            film(again, [WOLF] * 7)
            again.restore(snapshot)
            assert film(again.fork(), [FOX] * (12 - start)) == hashes[start:]
            assert film(again, [FOX] * (12 - start)) == hashes[start:]

    def forgetful(start: int) -> list[str]:
        again = tiny_stream(engine, seed=77)
        again.restore(after[start])
        again.state.kv[0].tensors()["queries"].zero_()
        return film(again, [FOX] * 2)

    assert any(forgetful(start) != hashes[start : start + 2] for start in (4, 6, 8)), "last chunk's queries do nothing"


def test_a_snapshot_of_a_memory_without_single_tokens_is_refused() -> None:
    plain = tiny_stream(deep_engine(DeepSink(8, 2)))
    with pytest.raises(ValueError, match="restore it into a stream of the same preset"):
        tiny_stream(deep_engine()).restore(plain.snapshot())
    with pytest.raises(ValueError, match="restore it into a stream of the same preset"):
        plain.restore(tiny_stream(deep_engine()).snapshot())


def test_after_a_cut_nothing_of_before_is_left() -> None:
    engine = deep_engine()
    cut, keep = Controls("an owl", Transition("cut")), Controls("an owl", Transition("keep"))

    def after(first: Controls, switch: Controls) -> list[str]:
        return film(tiny_stream(engine, seed=5), [first] * 7 + [switch] * 8)[7:]

    store = tiny_stream(engine).state.kv[0]
    store.tensors()["queries"].fill_(1.0)
    store.reset()
    assert not store.tensors()["queries"].any()
    assert after(FOX, cut) == after(WOLF, cut)
    assert after(FOX, keep) != after(WOLF, keep)


def test_a_recache_fills_the_memory_with_whole_frames_again() -> None:
    engine = deep_engine(switch=Recache(window=8, sink=2))
    stream = tiny_stream(engine)
    film(stream, [FOX] * 7)
    assert [slot.tag for slot in stream.state.kv[0].entries][:4] == ["sink", "sink", "kept", "recent"]
    twin, position = stream, Watched()
    stream = tiny_stream(replace(engine, policies=replace(engine.policies, position=position)))
    stream.restore(twin.snapshot())
    film(stream, [WOLF])
    assert position.answers[8][0] == ([*range(8, 14)], [6, 7, *range(8, 14)]), "the replay sees the sink and itself"
    assert [slot.tag for slot in stream.state.kv[0].entries] == ["sink", "sink", "kept", *["recent"] * 3]
    assert film(stream, [WOLF] * 4) != film(twin, [FOX] * 5)[1:]


def test_given_frames_are_pruned_as_they_come_in() -> None:
    stream = tiny_stream(deep_engine(), seed=1)
    given = torch.randn(1, 15, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)).double()
    stream.prefill(given, FOX)
    assert stream.state.cur == 15
    assert sum(slot.tag == "kept" for slot in stream.state.kv[0].entries) == 1
    film(stream, [FOX] * 4)
    assert torch.isfinite(stream.state.latents.ring).all()


def test_a_budget_without_tokens_evicts_whole_frames() -> None:
    stream = tiny_stream(deep_engine(replace(SMALL, budget=5)))
    film(stream, [FOX] * 9)
    assert {slot.tag for slot in stream.state.kv[0].entries} == {"sink", "recent"}


def test_two_thousand_frames_leave_the_memory_as_large_as_before() -> None:
    policy = DeepForcing(window=29, sink=10, budget=20, recent=8)
    plan = Serial((1000.0,), chunk=8, memory="last")  # a single pass a chunk: the quickest film
    engine = deep_engine(policy, plan=plan, model=tiny_transformer(num_layers=1))
    stream = Stream(engine, height=2, width=2)
    store = stream.state.kv[0]
    sizes = {name: tensor.shape for name, tensor in copied(store).items() if isinstance(tensor, Tensor)}
    oldest = 0
    for chunk in range(250):
        stream.next_chunk(FOX, decode=False)
        if chunk % 25 < 2:
            index, cur = store.tokens(0)[0], stream.state.cur
            assert len(store.entries) <= policy.window
            assert sorted([*store.table.places, *store.table.free]) == list(range(policy.window)), "a place was lost"
            assert int(index[:, 3].max()) <= policy.max_reuse
            assert len(set(map(tuple, index[:, :3].tolist()))) == len(index), "a token is there twice"
            if cur > policy.window:
                oldest = max(oldest, cur - int(index[policy.sink :, 0].min()))
                assert cur - policy.budget - store.entries[0].base in (8, 16), "the sink was left behind"
    assert stream.state.cur == 2000
    assert policy.recent < oldest < 200, "tokens are never kept, or for ever"
    assert {name: tensor.shape for name, tensor in copied(store).items() if isinstance(tensor, Tensor)} == sizes
    assert torch.isfinite(stream.state.latents.ring).all()
