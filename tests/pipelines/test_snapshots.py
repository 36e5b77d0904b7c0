"""Snapshots as files: what comes back is the stream, bit for bit, and nothing damaged is taken for one."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cache.deep_forcing import DeepForcing
from cache.positions import MovedSink, SlotIndex
from cache.refresh import SinkRefresh
from cache.switches import Keep
from cache.tagged_memory import AveragedMemory
from pipelines.engine import Engine
from pipelines.snapshots import FORMAT, load_snapshot, save_snapshot
from pipelines.state import Latents, Snapshot, StreamState
from pipelines.streaming import Stream
from pipelines.types import Controls, Transition
from tests.tiny import film, tiny_autoencoder, tiny_engine, tiny_stream

FOX, WOLF = Controls("a fox"), Controls("a wolf")
MIX = Controls((("a fox", 0.7), ("a wolf", 0.3)), Transition("soft", 3))


@pytest.mark.parametrize("start", [0, 1, 4, 6, 9])
def test_a_stream_goes_on_from_a_file_bit_for_bit(tmp_path: Path, start: int) -> None:
    engine = tiny_engine()
    script = [FOX] * 3 + [WOLF] * 2 + [MIX] * 5 + [FOX] * 2  # at 6 it stands in the middle of a blend
    stream = tiny_stream(engine, seed=9)
    before = film(stream, script[:start])
    sha256 = save_snapshot(stream.snapshot(), tmp_path / "state.safetensors")
    after = film(stream, script[start:])
    again = tiny_stream(engine, seed=77)
    again.restore(load_snapshot(tmp_path / "state.safetensors", sha256=sha256))
    assert film(again, script[start:]) == after
    assert film(tiny_stream(engine, seed=9), script) == before + after
    assert film(tiny_stream(engine, seed=77), script[start:]) != after, "the snapshot does nothing"
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_decoder_and_drift_come_back_too(tmp_path: Path) -> None:
    engine = tiny_engine(autoencoder=tiny_autoencoder())
    stream = tiny_stream(engine, seed=3)
    film(stream, [FOX] * 4, decode=True)
    save_snapshot(stream.snapshot(), tmp_path / "state.safetensors")
    after = film(stream, [WOLF] * 3, decode=True)
    again = tiny_stream(engine, seed=1)
    again.restore(load_snapshot(tmp_path / "state.safetensors"))
    assert film(again, [WOLF] * 3, decode=True) == after


def test_a_damaged_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    stream = tiny_stream(tiny_engine(), seed=9)
    film(stream, [FOX] * 2)
    path = tmp_path / "state.safetensors"
    sha256 = save_snapshot(stream.snapshot(), path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            load_snapshot(path)
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="checksum"):
        load_snapshot(path, sha256=sha256)
    save_file({"latents": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no snapshot of this version"):
        load_snapshot(path)
    for header in (
        f'{{"format": {FORMAT}, "state": {{"seed": 1}}}}',
        f'{{"format": {FORMAT}, "state": {{"kv": {{"$tensor": "gone"}}}}}}',
        f'{{"format": {FORMAT}, "state": 3}}',
        f'{{"format": {FORMAT}}}',
        '{"format": 2, "text": {"prompt": ""}}',
    ):
        save_file({"latents": torch.zeros(1)}, path, metadata={"rivulet": header})
        with pytest.raises(ValueError, match="lacks"):
            load_snapshot(path)
    for header in ('{"format": 1}', '{"format": 99}', '{"format": []}', "[]", "null"):
        save_file({"latents": torch.zeros(1)}, path, metadata={"rivulet": header})
        with pytest.raises(ValueError, match="no snapshot of this version"):
            load_snapshot(path)


def test_a_full_disk_keeps_the_snapshot_before(tmp_path: Path) -> None:
    stream = tiny_stream(tiny_engine(), seed=9)
    film(stream, [FOX])
    path = tmp_path / "state.safetensors"
    sha256 = save_snapshot(stream.snapshot(), path)
    film(stream, [FOX])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_snapshot(stream.snapshot(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    load_snapshot(path, sha256=sha256)
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


# ------------------------------------------------------------------ files of the version before


def save_as_before(snapshot: Snapshot, path: Path) -> None:
    """A file of format 2, as it was written field by field."""
    tree = snapshot.tree
    tensors: dict[str, Tensor] = {"latents": tree["latents"]["ring"], "flight": tree["flight"]["ring"]}
    lanes: list[dict[str, Any]] = []
    for number, store in enumerate(tree["kv"]):
        held = {name: value for name, value in store.items() if isinstance(value, Tensor)}
        held |= {f"mean.{place}": mean for place, mean in store["means"].items()}
        tensors |= {f"kv.{number}.{name}": value for name, value in held.items()}
        slots = [[slot.frame, slot.tag, slot.prompt, slot.level, slot.base] for slot in store["entries"]]
        table = {"entries": slots, "physical": store["places"], "free": store["free"], "scores": store["scores"]}
        lanes.append(table | {"tensors": [*held]})
    tensors |= {f"decoder.{number}": each for number, each in enumerate(tree["decoder"])}
    text = {name: getattr(tree["text"], name) for name in ("prompt", "version", "blended", "blend")}
    for name in ("embeds", "start", "target"):
        if (value := getattr(tree["text"], name)) is not None:
            tensors[f"text.{name}"] = value
    for name in ("recent", "reference", "early"):
        if statistics := getattr(tree["drift"], name):
            tensors[f"drift.{name}"] = torch.from_numpy(np.stack(statistics))
    plain = ("seed", "stream", "epoch", "chunk", "cur", "scene", "levels", "switches", "scale")
    header = {name: tree[name] for name in plain} | {"lanes": lanes, "decoder": len(tree["decoder"]), "text": text}
    header |= {"format": 2, "drift_since": tree["drift"].since}
    save_file(tensors, path, metadata={"rivulet": json.dumps(header)})


BEFORE: dict[str, Callable[[], Engine]] = {
    "decoded": lambda: tiny_engine(autoencoder=tiny_autoencoder()),
    "means": lambda: tiny_engine(cache=AveragedMemory(), position=SlotIndex()),
    "frames scored": lambda: tiny_engine(cache=SinkRefresh(window=6, sink=3, threshold=0.95), switch=Keep()),
    "tokens scored": lambda: tiny_engine(
        cache=DeepForcing(window=8, sink=2, budget=7, recent=3), position=MovedSink(), switch=Keep()
    ),
}


@pytest.mark.parametrize("kind", BEFORE)
def test_a_file_of_the_version_before_is_gone_on_from_bit_for_bit(kind: str, tmp_path: Path) -> None:
    engine, decode = BEFORE[kind](), kind == "decoded"
    stream = tiny_stream(engine, seed=9)
    film(stream, [FOX] * 4 + [WOLF] + [MIX] * 2, decode=decode)
    save_as_before(stream.snapshot(), tmp_path / "old")
    after = film(stream, [MIX] * 3 + [FOX], decode=decode)
    again = tiny_stream(engine, seed=1)
    again.restore(load_snapshot(tmp_path / "old"))
    assert film(again, [MIX] * 3 + [FOX], decode=decode) == after


def rewritten(path: Path, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    """A file as another version would have written it: its header changed, its tensors as they are."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["rivulet"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    header["format"] = number
    change(header["state"])
    save_file(tensors, path, metadata={"rivulet": json.dumps(header)})


def without_video(state: dict[str, Any]) -> None:
    for name in ("encoder", "origin", "video"):
        del state[name]


def test_a_file_from_before_there_was_video_is_gone_on_from_bit_for_bit(tmp_path: Path) -> None:
    """Format 3: no encoder, no clean latents in flight, no way of a video."""
    engine, path = tiny_engine(autoencoder=tiny_autoencoder()), tmp_path / "s"
    stream = tiny_stream(engine, seed=9)
    film(stream, [FOX] * 3, decode=True)
    save_snapshot(stream.snapshot(), path)
    after = film(stream, [WOLF] * 2, decode=True)
    rewritten(path, 3, without_video)
    again = tiny_stream(engine, seed=1)
    again.restore(load_snapshot(path))
    assert film(again, [WOLF] * 2, decode=True) == after
    open_for_one = tiny_stream(engine, seed=1, video=True)
    with pytest.raises(ValueError, match="the snapshot's encoder"):
        open_for_one.restore(load_snapshot(path))
    save_snapshot(open_for_one.snapshot(), path)
    rewritten(path, 4, lambda state: state["video"].pop("at"))  # every video began with its film
    open_for_one.restore(load_snapshot(path))
    assert open_for_one.state.video.at == 0
    save_snapshot(stream.snapshot(), path)
    rewritten(path, 4, without_video)
    with pytest.raises(ValueError, match="lacks 'video'"):  # format 4 had them all
        load_snapshot(path)


# ------------------------------------------------------------------ a field more


@dataclass(frozen=True, slots=True)
class Memo:
    """What some policy of tomorrow remembers."""

    text: str = ""
    vector: Tensor | None = None
    curve: tuple[NDArray[np.float32], ...] = ()
    point: NDArray[np.float32] | None = None


@dataclass(slots=True)
class Grown(StreamState):
    """A state with a field of every kind more, a line each."""

    share: float = 1.0
    memo: Memo = field(default_factory=Memo)
    ring: Latents = field(default_factory=lambda: Latents((1, 2, 1, 1), 3, "cpu", torch.float32))
    parts: list[Tensor] = field(default_factory=lambda: [torch.zeros(2), torch.zeros(3)])
    named: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def grown(stream: Stream) -> Grown:
    assert isinstance(stream.state, Grown)
    return stream.state


def fill(state: Grown, value: float) -> None:
    curve = np.full(5, value, dtype=np.float32)
    state.share = value
    state.memo = Memo(f"memo {value}", torch.full((4,), value), (curve, curve), curve)
    state.ring.put(range(3), torch.full((1, 3, 2, 1, 1), value))
    state.parts = [torch.full((2,), value), torch.full((3,), value)]
    state.named = {"a": torch.full((6,), value)}


def says(state: Grown, value: float) -> bool:
    memo = state.memo
    assert memo.vector is not None
    assert memo.point is not None
    arrays = [torch.from_numpy(each) for each in (*memo.curve, memo.point)]
    tensors = [memo.vector, *arrays, state.ring.ring, *state.parts, *state.named.values()]
    assert [tensor.numel() for tensor in tensors] == [4, 5, 5, 5, 6, 2, 3, 6]
    same = {state.share, float(memo.text.removeprefix("memo ")), *(float(t.unique()) for t in tensors)}
    assert len(same) == 1, f"parts of one moment: {same}"
    return same == {value}


def test_a_field_more_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshot, restore, fork, file, the way to another device and the count of bytes see it without being told."""
    engine = tiny_engine()
    plain = tiny_stream(engine).snapshot()
    monkeypatch.setattr("pipelines.allocate.StreamState", Grown)
    stream = tiny_stream(engine)
    state = grown(stream)
    held = state.ring.ring.data_ptr()
    bytes_before = stream.snapshot().nbytes
    assert bytes_before - plain.nbytes == 4 * (6 + 2 + 3)
    fill(state, 2.5)
    snapshot = stream.snapshot()
    assert snapshot.nbytes - bytes_before == 4 * (4 + 5 + 5 + 5 + 6)
    save_snapshot(snapshot, tmp_path / "s")
    fork = stream.fork()
    fill(state, 7.0)
    assert says(grown(fork), 2.5)
    assert says(state, 7.0)
    for saved in (snapshot, load_snapshot(tmp_path / "s"), snapshot.to("cpu")):
        fill(state, 7.0)
        stream.restore(saved)
        assert says(state, 2.5)
        with torch.inference_mode():
            state.parts[0].zero_()
            state.named["a"].zero_()  # the snapshot is not what the stream writes to
    assert state.ring.ring.data_ptr() == held, "what stays in its buffers stays there"
    away = snapshot.to("meta").tree
    moved = [away["memo"].vector, away["ring"]["ring"], *away["parts"], away["named"]["a"]]
    assert {tensor.device.type for tensor in moved} == {"meta"}
    with pytest.raises(ValueError, match="the snapshot lacks share, memo, ring, parts, named: another version"):
        stream.restore(plain)
    for name, wrong in (
        ("parts", (torch.zeros(2),)),
        ("parts", (torch.zeros(3), torch.zeros(2))),
        ("parts", 3),
        ("ring", {"ring": torch.zeros(1)}),
        ("ring", {"circle": snapshot.tree["ring"]["ring"]}),
        ("memo", {"text": "x"}),
        ("kv", snapshot.tree["kv"] * 2),
    ):
        fill(state, 7.0)
        with pytest.raises(ValueError, match=f"the snapshot's {name}.* restore it into a stream of the same preset"):
            stream.restore(Snapshot({**snapshot.tree, name: wrong}))
        assert says(state, 7.0), "refused, and yet changed"


def test_state_that_no_file_could_hold_is_refused_when_it_is_copied() -> None:
    stream = tiny_stream(tiny_engine())
    stream.state.scale = object()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="tensors and plain data, not object"):
        stream.snapshot()
