"""The recorded runs must replay, and a recording that is a little wrong must not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cache.scorers.logit_sum import LogitSum
from tests import golden_replay
from tests.golden_deep import Listener
from tests.golden_replay import FAMILIES, HERE, find, main, replay_file
from tests.golden_trace import ATOL, Ledger, Trace

TRACES = find(HERE)
ELSEWHERE = {"rf", "af"}
"""Families whose licences keep recordings out of this repository; they replay where RIVULET_GOLDEN points."""
Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def forge(folder: Path, name: str, change: Change, *, sign: bool = True) -> Path:
    """A changed copy of a trace; with `sign` its sidecar vouches for the change, so that only numbers betray it."""
    sidecar = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    tensors = load_file(HERE / f"{name}.safetensors")
    change(tensors, sidecar)
    if "weights_of" in sidecar:
        other = f"{sidecar['weights_of']}.safetensors"
        (folder / other).write_bytes((HERE / other).read_bytes())
    file = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    if sign and "sha256" in sidecar:
        sidecar["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    path = folder / f"{name}.json"
    path.write_text(json.dumps(sidecar), encoding="utf-8")
    return path


def scale(key: str, factor: float) -> Change:
    def change(tensors: dict[str, Tensor], _sidecar: dict[str, Any]) -> None:
        tensors[key] = tensors[key] * factor

    return change


def add(key: str, amount: float, at: int = -1) -> Change:
    """Move one number of a recorded result."""

    def change(tensors: dict[str, Tensor], _sidecar: dict[str, Any]) -> None:
        before = tensors[key].clone()
        tensors[key].view(-1)[at] += amount
        assert not torch.equal(tensors[key], before), "the change must change something"

    return change


def swap(a: str, b: str) -> Change:
    def change(tensors: dict[str, Tensor], _sidecar: dict[str, Any]) -> None:
        tensors[a], tensors[b] = tensors[b], tensors[a]

    return change


def edit(*path: str | int, to: Any) -> Change:
    """Change an entry of the sidecar."""

    def change(_tensors: dict[str, Tensor], sidecar: dict[str, Any]) -> None:
        place: Any = sidecar
        for step in path[:-1]:
            place = place[step]
        assert place[path[-1]] != to, "the change must change something"
        place[path[-1]] = to

    return change


# ---------------------------------------------------------------------- the recordings


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_the_recorded_run_replays(path: Path):
    result = replay_file(path)
    assert result.status == "ok", result
    assert 0 < result.error < ATOL or result.what.startswith("sched"), result


def test_the_recordings_cover_every_family_that_replays():
    families = {golden_replay.family(Trace.open(path).sidecar) for path in TRACES}
    assert families == set(FAMILIES) - ELSEWHERE


def test_the_recordings_are_small_and_named_in_their_readme():
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.stem}`" in readme for path in TRACES)
    assert sum(file.stat().st_size for file in HERE.iterdir()) < 12e6


# ---------------------------------------------------------------------- recordings that are a little wrong

SF, LL, INFINITY, I2V = "sf_chunks_w9_s3", "longlive_switch_gs1", "longlive_infinity", "sf_chunks_global_i2v"
DEEP, STREAM, LOW, THREE = "deep_pc", "sdv2_stream", "sdv2_session_low", "sdv2_stream_three"

FORGERIES: dict[str, tuple[str, Change]] = {
    "one weight of a rollout is 0.1 % larger": (SF, scale("w.blocks.1.self_attn.v.weight", 1.001)),
    "one weight of a forward is 0.1 % larger": ("wan_model", scale("w.blocks.1.ffn.2.weight", 1.001)),
    "one weight in training is 0.1 % larger": ("causal_train", scale("w.blocks.0.ffn.0.weight", 1.001)),
    "one weight in teacher forcing is 0.1 % larger": (
        "causal_train_tf",
        scale("w.blocks.0.self_attn.o.weight", 1.001),
    ),
    "a bias of the text is 0.1 % larger": (LL, scale("w.text_embedding.2.bias", 1.001)),
    "one result of the film": (SF, add("out.latents", 1e-4)),
    "one number in the middle of a forward": ("wan_model", add("mid.blocks.0.cross_attn", 1e-4)),
    "one remembered key at the end": (LL, add("kv.final.1.k", 1e-4)),
    "one remembered value after a pass": (INFINITY, add("kv.call004.0.v", 1e-4, at=0)),
    "one text key": (I2V, add("kv.final.1.cross_k", 1e-4)),
    "one timestep": (SF, add("call.001.t", 1e-3)),
    "one decoded number": ("taehv_w21", add("out.decoder_raw", 3e-5)),
    "one index of the table": ("sched_sf", add("out.timestep_id", 1)),
    "one sigma, by one unit": ("sched_sd", add("sched.sigmas", 2**-30)),
    "one step of the list": ("sched_sf", add("sched.denoising_step_list", 0.01)),
    "bfloat16 two units off": ("sched_sf", lambda tensors, _: nudge_bf16(tensors["out.add_noise_bf16"], 2)),
    "draws in another order": (SF, swap("noise.000", "noise.001")),
    "prompts in another order": (LL, swap("in.prompt.0", "in.prompt.1")),
    "keys and values mixed up": (SF, swap("kv.call004.0.k", "kv.call004.0.v")),
    "a call that starts a frame later": (SF, edit("calls", 7, "current_start", to=24)),
    "a cache that holds a frame less": (SF, edit("calls", 20, "after", "local_end_index", to=[48])),
    "another prompt in a call": (LL, edit("calls", 22, "prompt", to=0)),
    "an earlier switch": (LL, edit("scenario", "switch", to=[9])),
    "a final counter": (I2V, edit("final_index", "global_end_index", to=[66])),
    "a smaller sink": (LL, edit("args", "model_kwargs", "sink_size", to=2)),
    "another shift": (SF, edit("args", "model_kwargs", "timestep_shift", to=8.0)),
    "a sink that the switch renews": (LL, edit("args", "global_sink", to=False)),
    "rotated keys instead of raw ones": (
        INFINITY,
        edit("args", "model_kwargs", "use_infinite_attention", to=False),
    ),
    "one token kept instead of another": (DEEP, add("pc.keep.call045.1", 1, at=62)),
    "one score": (DEEP, add("pc.scores.call055.0", 1e-3, at=80)),
    "a token chosen once more": (DEEP, add("kv.final.1.topc_select_counts", 1, at=61)),
    "a token of another frame": (DEEP, add("kv.call045.0.abs_frame_idx", 1, at=62)),
    "a sink that was moved a frame less": (DEEP, edit("calls", 46, "state", "sink_base_abs_start_frame", to=10)),
    "a budget of one frame less": (DEEP, edit("args", "model_kwargs", "budget", to=15)),
    "one pixel of the input": (STREAM, add("in.video", 0.5, at=700)),
    "one latent of the input": (STREAM, add("in.latent.003", 1e-3)),
    "one remembered value of the second level": (STREAM, add("kv.final.1.v", 1e-4)),
    "a slot that is next to go": (STREAM, edit("calls", 5, "evict_idx", 0, 0, to=12)),
    "a sink frame that is more alike": (STREAM, edit("calls", 6, "sink_similarity", 0, 0, 1, to=0.284)),
    "a sink that is never renewed": (STREAM, edit("args", "adapt_sink_threshold", to=-1)),
    "a step that does not repeat": (LOW, edit("calls", 5, "timestep", 1, 0, to=300)),
    "an empty row as long as its chunk": (THREE, edit("calls", 2, "current_end", 1, to=42)),
    "a memory that is not full": (THREE, edit("calls", 4, "after", "local_end_index", 0, to=54)),
    "a share of noise": (STREAM, edit("noise_controller", 3, "noise_scale", to=0.7158)),
    "a first level": (STREAM, edit("noise_controller", 3, "current_step", to=616)),
    "a level of the controller's own record": ("sched_sd", edit("noise_controller_bf16", 2, "current_step", to=656)),
    "a picture that leaves a call later": (STREAM, lambda _, sidecar: sidecar["events"].pop()),
    "a draw too many": (SF, lambda _, sidecar: sidecar["events"].insert(3, {"randn": 99})),
}


def nudge_bf16(recorded: Tensor, units: int) -> None:
    """Move one recorded bfloat16 number by so many representable numbers."""
    bits = recorded.view(-1)[:1].bfloat16().view(torch.int16) + units
    recorded.view(-1)[:1] = bits.view(torch.bfloat16).float()


@pytest.mark.parametrize("what", FORGERIES)
def test_a_recording_with_one_thing_changed_fails(what: str, tmp_path: Path):
    name, change = FORGERIES[what]
    result = replay_file(forge(tmp_path, name, change))
    assert result.status == "FAIL", result
    assert result.remarks


def test_a_copy_with_nothing_changed_passes(tmp_path: Path):
    """The forger itself must not be what the forgeries fail by."""
    for name in (SF, "sched_sf"):
        assert replay_file(forge(tmp_path, name, lambda tensors, sidecar: None)).status == "ok"


def test_bfloat16_may_differ_by_one_unit_and_the_line_says_so(tmp_path: Path):
    result = replay_file(forge(tmp_path, "sched_sf", lambda tensors, _: nudge_bf16(tensors["out.add_noise_bf16"], 1)))
    assert result.status == "ok"
    assert "bf16 within 1 unit" in result.remarks
    assert "bf16 exact" in replay_file(HERE / "sched_sf.json").remarks


def test_a_recorded_result_that_nobody_compares_is_a_failure(tmp_path: Path):
    def extra(tensors: dict[str, Tensor], sidecar: dict[str, Any]) -> None:
        tensors["out.extra"] = torch.zeros(2)
        sidecar["tensors"]["out.extra"] = {"shape": [2], "dtype": "float32"}

    result = replay_file(forge(tmp_path, "causal_train", extra))
    assert result.status == "FAIL"
    assert "out.extra" in result.remarks


def test_scores_of_tokens_are_compared_as_they_were_before_some_were_excluded():
    """As Deep Forcing records them; what is chosen goes by the product's own scores."""
    made = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(1, 2, 2, 8, generator=made), torch.randn(1, 6, 2, 8, generator=made)
    uses = torch.tensor([[0, 3, 2, 1, 3, 0]])
    listener, scorer = Listener(LogitSum(2, max_reuse=3)), LogitSum(2, max_reuse=3)
    answered = listener.score(1, queries, keys, keys, uses)
    assert torch.equal(answered, scorer.score(1, queries, keys, keys, uses))
    assert torch.equal(listener.heard[1], scorer.score(1, queries, keys, keys, uses * 0))
    assert listener.used_up[1].tolist() == [[False, True, False, False, True, False]]
    assert not torch.equal(answered, listener.heard[1])


# ---------------------------------------------------------------------- files that cannot be trusted


def test_a_file_that_is_not_the_signed_one_is_refused_before_it_is_replayed(tmp_path: Path):
    result = replay_file(forge(tmp_path, "sched_sf", add("out.step", 1e-3), sign=False))
    assert (result.status, result.what) == ("FAIL", "-")
    assert "sha256" in result.remarks


def test_tensors_that_differ_from_the_sidecars_list_are_refused(tmp_path: Path):
    def lose(tensors: dict[str, Tensor], _sidecar: dict[str, Any]) -> None:
        del tensors["out.step"]

    def forget(_tensors: dict[str, Tensor], sidecar: dict[str, Any]) -> None:
        del sidecar["tensors"]["in.t"]

    for change, sentence in (
        (lose, "lacks out.step"),
        (forget, "in.t, which its sidecar does not list"),
        (edit("tensors", "in.t", "shape", to=[23]), "in.t is float32[24], its sidecar says float32[23]"),
    ):
        assert sentence in replay_file(forge(tmp_path, "sched_sf", change)).remarks


def test_broken_files_fail_with_a_sentence(tmp_path: Path):
    for suffix in (".json", ".safetensors"):
        shutil.copy(HERE / f"taehv_w21{suffix}", tmp_path)
    tensors = tmp_path / "taehv_w21.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    assert "no complete safetensors file" in replay_file(tmp_path / "taehv_w21.json").remarks
    tensors.unlink()
    assert "is missing" in replay_file(tmp_path / "taehv_w21.json").remarks
    (tmp_path / "taehv_w21.json").write_text("{", encoding="utf-8")
    assert "not JSON" in replay_file(tmp_path / "taehv_w21.json").remarks


# ---------------------------------------------------------------------- the command


def test_the_command_counts_what_it_printed_and_exits_1_on_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RIVULET_GOLDEN", str(tmp_path))
    forge(tmp_path, "sched_sf", lambda tensors, sidecar: None)
    forge(tmp_path, "wan_model", edit("scenario", "sys", to="another system"))
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 0 failed, 1 not supported"
    assert "not supported" in lines[1]
    assert "another system" in lines[1]

    forge(tmp_path, "causal_train", add("out.flow", 1.0))
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 1 failed, 1 not supported"
    assert main(["sched_sf"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed, 0 not supported"
    assert main(["no_such_trace"]) == 1
    assert "causal_train, sched_sf, wan_model" in capsys.readouterr().err


def test_a_replay_that_compares_nothing_does_not_pass(monkeypatch: pytest.MonkeyPatch):
    def idle(_trace: Trace, _ledger: Ledger) -> None:
        return

    monkeypatch.setitem(FAMILIES, "sched", idle)
    assert replay_file(HERE / "sched_sf.json").status == "FAIL"
