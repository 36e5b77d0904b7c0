"""Settings from flags, overrides and files: who wins, where a value came from, and what is refused where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.aliases import GROUPS
from app.config.settings import (
    Layer,
    Resolved,
    Settings,
    given_by_file,
    given_by_flags,
    given_by_overrides,
    parse_config,
    resolve,
)
from app.config.table import READERS
from app.errors import UsageMistake
from benchmarks.robust.fuzz_configs import CONFIGS
from benchmarks.robust.mutation import run
from pipelines.presets import PRESETS
from pipelines.presets.knobs import KNOBS, knob_values
from weights.find import get_model

GOOD: dict[str, tuple[str, object]] = {
    "prompt": ("a red ball", ("a red ball",)),
    "script": ("shots.yaml", "shots.yaml"),
    "prompts": ("lines.txt", "lines.txt"),
    "switch_frame_indices": ("40,80", (40, 80)),
    "preset": ("longlive", "longlive"),
    "model": ("wan-1.3b", "wan-1.3b"),
    "lora": ("style.safetensors:0.8", ("style.safetensors:0.8",)),
    "vae": ("tiny", "tiny"),
    "use_ema": ("false", False),
    "vram": ("12GB", "12GB"),
    "attention": ("math", "math"),
    "untrained": ("true", True),
    "device": ("cpu", "cpu"),
    "threads": ("2", 2),
    "parallel": ("levels=2", "levels=2"),
    "gpus": ("2", 2),
    "models_dir": ("weights here", "weights here"),
    "offline": ("yes", True),
    "seed": ("7", 7),
    "seed_mode": ("random", "random"),
    "duration": ("0:20", "0:20"),
    "num_frames": ("81", 81),
    "num_output_frames": ("21", 21),
    "height": ("96", 96),
    "width": ("96", 96),
    "fps": ("23.976", "24000/1001"),
    "scale": ("2", 2),
    "crf": ("20", 20),
    "encoder_preset": ("superfast", "superfast"),
    "segment_chunks": ("12", 12),
    "num_inference_steps": ("6", 6),
    "denoising_step_list": ("1000,600,300", (1000.0, 600.0, 300.0)),
    "shift": ("4.5", 4.5),
    "warp_denoising_step": ("false", False),
    "guidance_scale": ("1.75", 1.75),
    "context_noise": ("20", 20.0),
    "guidance_type": ("residual-once", "residual-once"),
    "similarity_filter": ("0.05", 0.05),
    "anchored_noise": ("true", True),
    "local_attn_size": ("15", 15),
    "sink_size": ("4", 4),
    "num_frame_per_block": ("2", 2),
    "independent_first_frame": ("on", True),
    "kv_cache_attention_bias": ("0.3", 0.3),
    "feature_cache": ("clean-pass", "clean-pass"),
    "kv_cache_dtype": ("int8", "int8"),
    "cascade": ("3", 3),
    "dual_scope": ("4+2", "4+2"),
    "recache_on_switch": ("true", True),
    "global_sink": ("true", True),
    "transition": ("soft", "soft"),
    "transition_chunks": ("3", 3),
    "output": ("a b.mp4", "a b.mp4"),
    "report": ("r.html", "r.html"),
    "audio": ("song.wav", "song.wav"),
    "image": ("cat.png", "cat.png"),
    "extend": ("clip.mp4", "clip.mp4"),
    "reference": ("cat.png", "cat.png"),
    "input": ("webcam:0", "webcam:0"),
    "strength": ("0.5", 0.5),
    "latency": ("400ms", "400ms"),
    "fit": ("pad", "pad"),
    "rotate": ("90", 90),
    "sound": ("no", False),
    "side_by_side": ("both.mp4", "both.mp4"),
    "metadata": ("false", False),
    "subtitles": ("no", False),
    "sidecar": ("off", False),
}
"""A value of every setting, as text and as read; no preset or default has it, but for re-cache."""


def override_of(name: str) -> str:
    return f"{name}={GOOD[name][0]}"


COMPANY = {"transition_chunks": ["transition=soft"], "dual_scope": ["preset=rolling-forcing"]}
"""What a setting cannot be without."""


def with_company(name: str) -> list[str]:
    """A setting with what it cannot be without."""
    return [override_of(name), *COMPANY.get(name, ())]


# ------------------------------------------------------------------ who wins

STEPS: dict[str, tuple[object, str, str]] = {
    "seed": (1, "2", "seed: 3"),
    "crf": (1, "2", "output: {crf: 3}"),
    "sink_size": (1, "2", "cache: {sink_size: 4}"),
    "guidance_scale": (1.25, "1.5", "cfg: 1.75"),
    "num_inference_steps": (2, "3", "steps: 5"),
    "height": (8, "16", "height: 24"),
    "fps": ("12", "24", "fps: 25"),
    "device": ("cpu", "cuda", "device: cpu"),
    "recache_on_switch": (False, "false", "recache_on_switch: false"),
}
"""A setting's value as a flag, as an override and in a file."""


@given(name=st.sampled_from(sorted(STEPS)), places=st.tuples(st.booleans(), st.booleans(), st.booleans()))
@settings(max_examples=60, deadline=None)
def test_flags_win_over_overrides_over_the_file_over_preset_and_card(
    name: str, places: tuple[bool, bool, bool]
) -> None:
    flag, override, file = STEPS[name]
    layers = [
        given_by_flags({name: flag}),
        given_by_overrides([f"{name}={override}"]),
        parse_config(f"# a comment\n{file}\n", "film.yaml"),
    ]
    others = [given_by_flags({"prompt": ["a"]}), given_by_overrides(["threads=1"]), parse_config("scale: 1", "b.yaml")]
    chosen = [layer if there else other for layer, other, there in zip(layers, others, places, strict=True)]
    resolved = resolve(chosen)
    alone = [resolve([layer]) for layer in layers]
    if any(places):
        first = places.index(True)
        assert getattr(resolved.settings, name) == getattr(alone[first].settings, name)
        assert resolved.origin[name] == ("flag", "override", "file film.yaml line 2")[first]
        assert name in resolved.given
    else:
        assert name not in resolved.given
        expected = {"height": "model card", "fps": "model card", "seed": "default", "crf": "default"}
        knob = "preset embedded" if name in KNOBS else "default"
        assert resolved.origin[name] == expected.get(name, knob)


def test_the_preset_answers_for_its_knobs_and_the_card_for_the_picture() -> None:
    from pipelines.components import _card  # pyright: ignore[reportPrivateUsage]  # what the engine takes it to be

    resolved = resolve([])
    own = knob_values(PRESETS["embedded"])
    data = resolved.settings.model_dump(mode="json")
    assert {name: data[name] for name in own} == own
    assert (data["model"], data["height"], data["width"], data["fps"]) == ("embedded", 192, 192, "16")
    assert resolved.given == frozenset()
    assert resolved.preset == PRESETS["embedded"]
    other = resolve([given_by_overrides(["preset=self-forcing"])])
    assert other.origin["local_attn_size"] == "preset self-forcing"
    assert other.settings.local_attn_size == 21
    assert other.settings.global_sink is None
    card = _card(get_model("self-forcing-1.3b"), Path())  # its weights are not on this disk
    assert [other.settings.height, other.settings.width] == card["sizes"][0]
    assert other.settings.fps == str(card["fps"])
    assert {other.origin[name] for name in ("height", "width", "fps")} == {"model card"}
    assert not {"height", "width", "fps"} & other.given


@pytest.mark.parametrize("name", READERS)
def test_every_setting_is_read_from_text_and_kept_with_its_origin(name: str) -> None:
    text, read = GOOD[name]
    resolved = resolve([given_by_overrides(with_company(name))])
    assert getattr(resolved.settings, name) == read
    assert resolved.origin[name] == "override"
    assert resolve([]).settings.model_dump()[name] != read or name in ("recache_on_switch", "height", "width")
    assert next(row for row in resolved.table() if row[0] == name)[2] == "override"
    flag = [text] if name == "prompt" else text
    company = dict(each.split("=") for each in COMPANY.get(name, ()))
    assert getattr(resolve([given_by_flags({name: flag} | company)]).settings, name) == read


@pytest.mark.parametrize(
    ("written", "rate"),
    [("16", "16"), ("12.5", "25/2"), ("23.976", "24000/1001"), ("29.97", "30000/1001"), ("30000/1001", "30000/1001")],
)
def test_a_frame_rate_is_kept_exactly(written: str, rate: str) -> None:
    assert given_by_flags({"fps": written})["fps"].value == rate
    assert given_by_flags({"fps": rate})["fps"].value == rate


def test_what_one_answer_replaces_goes_with_it() -> None:
    file = parse_config(
        "prompt: [a, b]\nduration: 5s\ntransition: soft\ntransition_chunks: 9\ndenoising_step_list: [1000, 500]\n",
        "f.yaml",
    )
    assert resolve([file]).settings.transition_chunks == 9
    flags = {"script": "s.yaml", "num_frames": 9, "transition": "cut", "num_inference_steps": 5}
    resolved = resolve([given_by_flags(flags), file])
    held = resolved.settings
    assert (held.script, held.prompt) == ("s.yaml", ())
    assert (held.num_frames, held.duration) == (9, None)
    assert (held.transition, held.transition_chunks) == ("cut", None)
    assert held.denoising_step_list == (1000, 800, 600, 400, 200)
    assert resolved.origin["denoising_step_list"] == "flag"


# ------------------------------------------------------------------ files

NOTATIONS = {
    "film.yaml": "# one\nseed: 7\nsize: 96x96\ncache: {sink_size: 2, local_attn_size: 11}\noutput:\n  path: a.mp4\n"
    "  crf: 20\nsteps: 4\nduration: 0:20\nprompt: [a, 'b: c']\nthreads:\nrecache-on-switch: no\n",
    "film.json": '{"seed": 7, "size": "96x96",\n"cache": {"sink_size": 2, "local_attn_size": 11},\n'
    '"output": {"path": "a.mp4", "crf": 20}, "steps": 4, "duration": "0:20", "prompt": ["a", "b: c"],\n'
    '"threads": null, "recache_on_switch": false}',
    "film.toml": 'seed = 7\nsize = "96x96"\nsteps = 4\nduration = "0:20"\nprompt = ["a", "b: c"]\n'
    'recache_on_switch = false\n[cache]\nsink_size = 2\nlocal_attn_size = 11\n[output]\npath = "a.mp4"\ncrf = 20\n',
}


def read(name: str, text: str, folder: Path) -> Layer:
    (folder / name).write_text(text, encoding="utf-8")
    return given_by_file(folder / name)


def test_a_file_far_down_is_read_and_called_by_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with a name" / ("much " * 20).strip()
    folder.mkdir(parents=True)
    (folder / "film.toml").write_text("seed = 7\n", encoding="utf-8")
    (folder / "wrong.toml").write_text("sede = 7\n", encoding="utf-8")
    assert given_by_file(folder / "film.toml")["seed"].value == 7
    with pytest.raises(UsageMistake, match=r"^… .*much much/wrong\.toml, line 1"):
        given_by_file(folder / "wrong.toml")


def test_the_three_notations_say_the_same(tmp_path: Path) -> None:
    dumps = [resolve([read(name, text, tmp_path)]).settings.model_dump(mode="json") for name, text in NOTATIONS.items()]
    assert dumps[0] == dumps[1] == dumps[2]
    expected = {"seed": 7, "height": 96, "sink_size": 2, "local_attn_size": 11, "output": "a.mp4", "crf": 20}
    expected |= {"num_inference_steps": 4, "duration": "0:20", "prompt": ["a", "b: c"], "recache_on_switch": False}
    assert {name: dumps[0][name] for name in expected} == expected
    assert json.loads(json.dumps(dumps[0])) == dumps[0]


@pytest.mark.parametrize(("name", "line"), [("film.yaml", 7), ("film.json", 3), ("film.toml", 12)])
def test_a_value_of_a_file_knows_its_line(name: str, line: int) -> None:
    layer = parse_config(NOTATIONS[name], name)
    assert layer["crf"].origin == f"file {name} line {line}"
    assert layer["crf"].label == f"{name}, line {line}: output.crf"


def test_a_key_of_toml_that_could_be_on_two_lines_has_none() -> None:
    layer = parse_config('prompt = """\nseed = 9\n"""\nseed = 7\n', "film.toml")
    assert layer["seed"].value == 7
    assert layer["seed"].origin == "file film.toml"


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_of_a_group_is_understood_with_the_group_and_without(group: str) -> None:
    for name, setting in GROUPS[group].items():
        value = GOOD[setting][0]
        nested = parse_config(f"{group}: {{{name}: '{value}'}}", "f.yaml")
        dotted = given_by_overrides([f"{group}.{name}={value}"])
        assert nested[setting].value == dotted[setting].value == GOOD[setting][1]


def test_settings_come_back_from_json() -> None:
    layer = given_by_overrides([override_of(n) for n in ("prompt", "fps", "sink_size", "seed", "models_dir")])
    settings = resolve([layer]).settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


# ------------------------------------------------------------------ what is refused

BAD_FILES: dict[str, tuple[str, str, str]] = {
    "empty": ("f.yaml", "", "f.yaml: there is no setting in this file. Write for example seed: 7."),
    "only a comment": ("f.yaml", "# seed: 7\n", "no setting in this file"),
    "empty toml": ("f.toml", "\n", "f.toml: there is no setting"),
    "another notation": ("f.ini", "seed=7", "f.ini is no config file that Rivulet reads. Give a .yaml"),
    "a list": ("f.yaml", "- seed", "f.yaml, line 1: this is no list of settings. Write name: value"),
    "unknown": (
        "f.yaml",
        "crf: 3\nsede: 7",
        "f.yaml, line 2: sede is no setting that Rivulet knows; did you mean seed?",
    ),
    "nothing near": ("f.yaml", "zzzzzz: 7", "line 1: zzzzzz is no setting that Rivulet knows. Take it out"),
    "unknown in a group": ("f.yaml", "cache:\n  snk_size: 7", "line 2: cache.snk_size is no setting"),
    "in the wrong group": ("f.yaml", "cache:\n  seed: 7", "line 2: cache.seed is no setting"),
    "group of one value": ("f.yaml", "cache: 7", "cache is a group of settings. Write cache: {"),
    "value with entries": ("f.yaml", "seed:\n  a: 7", "seed has entries below it, where one value belongs"),
    "flag": ("f.yaml", "overwrite: true", "overwrite is no setting but a flag. Add --overwrite to the command"),
    "script": ("f.yaml", "shots: []", "shots belongs into a script. Give this file with --script"),
    "twice": (
        "f.yaml",
        "steps: 3\nnum_inference_steps: 4",
        "is given twice, as f.yaml, line 1: steps and f.yaml, line 2",
    ),
    "same key twice": ("f.yaml", "seed: 3\nseed: 4", "f.yaml, line 2"),
    "two lengths": (
        "f.yaml",
        "duration: 3s\nnum_frames: 4",
        "The length is given twice, as f.yaml, line 1: duration and",
    ),
    "two sources": ("f.yaml", "prompt: a\nscript: b", "What to show is given twice"),
    "two sizes": ("f.yaml", "size: 96x96\nwidth: 96", "given twice, as f.yaml, line 1: size and f.yaml, line 2: width"),
    "aliases": ("f.yaml", "seed: &a 3\ncrf: *a", "f.yaml, line 1: anchors and aliases"),
    "tag": ("f.yaml", "seed: !!python/object:os.system 3", "f.yaml, line 1: tags such as"),
    "NaN": ("f.yaml", "guidance_scale: .nan", "line 1: guidance_scale .nan is not a number. Give digits"),
    "infinite shift": ("f.yaml", "shift: 1e999", "shift 1e999 is not a number"),
    "a word for a number": ("f.yaml", "seed: lucky", "seed lucky is not a whole number. Give 0 to"),
    "seed below": ("f.toml", "seed = -2", "f.toml, line 1: seed -2 is out of range"),
    "huge seed": ("f.json", '{"seed": 99999999999999999999}', "is out of range. Give 0 to 9223372036854775807"),
    "steps": ("f.json", '{\n"steps": 0}', "f.json, line 2: steps 0 is out of range. Give 1 to 1000."),
    "a list for a number": ("f.yaml", "seed: [1, 2]", "seed (a list) is not a whole number"),
    "size of letters": ("f.yaml", "size: big", "size big is not a size. Give width x height"),
    "tiny": ("f.yaml", "height: 1", "height 1 is out of range. Give 8 to 4096"),
    "fps": ("f.yaml", "fps: 1/0", "fps 1/0 is not a frame rate"),
    "duration": ("f.yaml", "duration: soon", "f.yaml, line 1: duration: This is not a duration: 'soon'. Write it like"),
    "neither": ("f.yaml", "recache_on_switch: maybe", "maybe is neither true nor false"),
    "preset": ("f.yaml", "preset: longlife", "there is no preset 'longlife'. Choose from embedded"),
    "model": ("f.yaml", "model: embeded", "f.yaml, line 1: model: No model 'embeded'"),
    "long model": ("f.yaml", f"model: {'m' * 4000}", "is no path"),
    "weighted prompt": ("f.yaml", "prompt: [[a, 0.5]]", "Weighted prompts go into a script"),
    "empty output": ("f.yaml", "output: ''", "output is empty or no text. Give a file name"),
    "NUL": ("f.json", '{"output": "a\\u0000.mp4"}', "holds a NUL byte"),
    "switches": ("f.yaml", "switch_frame_indices: [40, 30]", "does not rise"),
    "sink past the window": (
        "f.yaml",
        "crf: 3\nsink_size: 12",
        "f.yaml, line 2: sink_size: a window (local_attn_size)",
    ),
    "rising steps": ("f.yaml", "denoising_step_list: [500, 1000]", "has to fall: give falling timesteps"),
    "length of a cut": ("f.yaml", "transition: cut\ntransition_chunks: 3", "f.yaml, line 2: transition_chunks: a cut"),
    "not TOML": ("f.toml", "seed = \n", "f.toml, line 1: this is not TOML (Invalid value). Write name = value"),
    "date": ("f.toml", "seed = 2024-01-01", 'f.toml, line 1: "2024-01-01" is a date or a time'),
    "deep": ("f.toml", "a = " + "[" * 90_000, "nested too deep"),
    "dotted": ("f.toml", "a." * 40_000, "a name of more than 16 parts"),
    "hexadecimal": ("f.toml", "seed = 0x" + "f" * 9000, '"seed" is too large a number'),
    "large": ("f.toml", "#" * 100_001, "f.toml is larger than 100 kB"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_mistake_in_a_file_is_told_with_its_place_and_an_action(case: str) -> None:
    name, text, said = BAD_FILES[case]
    with pytest.raises(UsageMistake) as refusal:
        resolve([parse_config(text, name)])
    message = str(refusal.value)
    assert said in message
    assert name in message
    assert message.endswith((".", "?"))
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no file"),
        (b"seed: \xff", "line 1: this is not UTF-8"),
        (b"crf: 3\nseed: \0", "line 2: this holds a NUL byte"),
        (b"#" * 1_000_001, "is larger than 1 MB"),
    ],
    ids=["missing", "not UTF-8", "NUL", "huge"],
)
def test_a_file_that_is_no_text_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "film.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageMistake, match=said):
        given_by_file(path)
    with pytest.raises(UsageMistake, match="is a folder"):
        given_by_file(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["cach.sink_size=3"],
            "override cach.sink_size is no setting that Rivulet knows; did you mean cache.sink_size?",
        ),
        (["seed=3", "seed=4"], "The seed is given twice"),
        (["cache.sink_size="], "override cache.sink_size '' is not a whole number"),
        (["seed=" + "9" * 5000], "is not a whole number"),
        (["shots=3"], "shots belongs into a script"),
        (["x\x1b[2J=3"], "\\x1b[2J is no setting"),
    ],
)
def test_a_mistake_in_an_override_is_told_with_its_name(given: list[str], said: str) -> None:
    with pytest.raises(UsageMistake) as refusal:
        resolve([given_by_overrides(given)])
    assert said in str(refusal.value)


def test_a_mistake_of_a_flag_names_the_flag() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seed": -2}, "--seed -2 is out of range"),
        ({"sink_size": 12}, "--sink_size: a window"),
        ({"size": "0x0"}, "--size 0 is out of range. Give 8 to 4096"),
        ({"model": "x" * 9999}, "--model has 9999 characters"),
        ({"transition": "soft", "transition_chunks": 0}, "--transition_chunks 0 is out of range. Give 1 or more"),
    ]
    for flags, said in cases:
        with pytest.raises(UsageMistake) as refusal:
            resolve([given_by_flags(flags)])
        assert said in str(refusal.value)


def test_mutated_configs_end_in_settings_or_in_one_sentence() -> None:
    for name, (data, target) in CONFIGS.items():
        target(data, name)  # what is mutated is good
    rows = run(400, seed=5, targets=CONFIGS)
    assert [row["others"] for row in rows] == [[]] * len(CONFIGS)
    assert sum(row["accepted"] for row in rows) > 10
    assert sum(row["refused"] for row in rows) > 100


def test_a_resolved_record_cannot_be_changed() -> None:
    resolved: Resolved = resolve([])
    with pytest.raises(ValueError, match="seed"):
        resolved.settings.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="sede"):
        Settings.model_validate({"sede": 3})
