"""Other projects' names for our flags: each arrives as ours, and only behind `render`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import app.render.batch
from app.cli.main import main, normalise
from app.cli.render import split_words
from app.config.aliases import ALIASES, GROUPS, primary
from app.config.settings import Resolved, Settings, given_by_overrides, parse_config
from app.config.table import FLAGS_ONLY, OF_VIDEO, READERS
from app.errors import UsageMistake
from app.render.batch import RunFlags
from tests.config.test_config import GOOD


@pytest.fixture
def filmed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Resolved, RunFlags]]:
    """What the command line asked to film; nothing is filmed."""
    asked: list[tuple[Resolved, RunFlags]] = []
    monkeypatch.setattr(app.render.batch, "film", lambda resolved, flags: asked.append((resolved, flags)) or 0)
    monkeypatch.chdir(tmp_path)
    return asked


def command_flags() -> set[str]:
    """Every long flag that `rivulet render` declares."""
    import typer

    from app.cli.main import app as program

    render = typer.main.get_command(program).commands["render"]  # type: ignore[attr-defined]  # a private class
    return {name[2:] for option in render.params for name in option.opts if name.startswith("--")}


def test_an_alias_is_no_name_of_ours_and_means_one_of_ours() -> None:
    ours = {*READERS, *FLAGS_ONLY, "size"}
    assert not ALIASES.keys() & ours
    assert set(ALIASES.values()) <= ours
    assert all("-" not in name for name in ALIASES)
    assert {name for names in GROUPS.values() for name in names.values()} <= READERS.keys()


def test_every_setting_is_a_flag_a_reader_and_a_field() -> None:
    assert list(Settings.model_fields) == list(READERS)
    assert command_flags() - {"help", "help_all"} == {*READERS, *FLAGS_ONLY, "size"} - OF_VIDEO
    assert GOOD.keys() == READERS.keys()


@pytest.mark.parametrize("spelling", ["_", "-"])
@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_understood_with_either_spelling(alias: str, spelling: str) -> None:
    flag = f"--{alias.replace('_', spelling)}"
    assert normalise(["render", flag, "1"]) == ["render", f"--{ALIASES[alias]}", "1"]
    assert normalise(["render", f"{flag}=a_b-c"]) == ["render", f"--{ALIASES[alias]}=a_b-c"]
    assert normalise(["bench", flag]) == ["bench", f"--{alias}"]
    assert primary(alias.replace("_", spelling)) == ALIASES[alias]


@pytest.mark.parametrize("alias", [alias for alias, name in ALIASES.items() if name in READERS])
def test_an_alias_in_a_file_or_an_override_sets_what_its_primary_name_sets(alias: str) -> None:
    name = ALIASES[alias]
    value, read = GOOD[name]
    layers = [given_by_overrides([f"{alias}={value}"]), parse_config(json.dumps({alias: value}), "film.json")]
    for layer, origin in zip(layers, ("override", "file film.json line 1"), strict=True):
        assert (layer[name].value, layer[name].origin) == (read, origin)


def test_aliases_of_the_command_line_arrive_as_settings(
    filmed: list[tuple[Resolved, RunFlags]], tmp_path: Path
) -> None:
    (tmp_path / "film.json").write_text('{"infer-steps": 5, "sink": 2}')
    words = ["--data_path", "lines.txt", "--config-path", "film.json", "--steps=6", "base_seed=9", "--cache.sink", "1"]
    assert main(["render", *words]) == 0
    resolved, _ = filmed[0]
    held = resolved.settings
    assert (held.prompts, held.num_inference_steps, held.seed, held.sink_size) == ("lines.txt", 6, 9, 1)
    origins = [resolved.origin[name] for name in ("num_inference_steps", "seed", "sink_size")]
    assert origins == ["flag", "override", "override"]


def test_latent_frames_keep_their_own_unit(filmed: list[tuple[Resolved, RunFlags]]) -> None:
    assert main(["render", "a ball", "--num_output_frames", "32"]) == 0
    assert main(["render", "a ball", "--target_video_length", "32"]) == 0
    units = [resolved.settings.length for resolved, _ in filmed]
    assert [(length.amount, length.unit) for length in units if length] == [(32, "l"), (32, "f")]


# ------------------------------------------------------------------ words of the command line


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("seed=3", True),
        ("cache.sink_size=3", True),
        ("cach.sink_size=3", True),  # refused later, with the nearest name
        ("steps=4", True),
        ("num-frames=9", True),
        ("size=96x96", True),
        ("cache=3", True),
        ("a red ball", False),
        ("x=y", False),
        ("the seed = hope", False),
        ("E=mc2 on a blackboard", False),
        ("=", False),
    ],
)
def test_settings_are_told_from_prompts(word: str, setting: bool) -> None:
    texts, overrides = split_words(["a ball", word])
    assert overrides == ([word] if setting else [])
    assert texts == (["a ball"] if setting else ["a ball", word])


def test_a_word_that_is_nearly_a_setting_is_not_filmed() -> None:
    with pytest.raises(UsageMistake, match=r"sede=3 is no setting\. Write seed=, or --prompt sede=3"):
        split_words(["a ball", "sede=3"])


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        (["--cache.sink_size", "3"], ["cache.sink_size=3"]),
        (["--cache.sink-size=3"], ["cache.sink-size=3"]),
        (["--cache.local_attn_size", "-1"], ["cache.local_attn_size=-1"]),
        (["--output.path=a.mp4", "--seed", "3"], ["output.path=a.mp4", "--seed", "3"]),
        (["--", "--cache.sink_size", "3"], ["--", "--cache.sink_size", "3"]),
    ],
)
def test_a_dotted_flag_is_a_setting(written: list[str], understood: list[str]) -> None:
    assert normalise(["render", *written]) == ["render", *understood]


@pytest.mark.parametrize("rest", [[], ["--seed", "3"]])
def test_a_dotted_flag_needs_a_value(rest: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "a ball", "--cache.sink_size", *rest]) == 2
    assert "--cache.sink_size needs a value. Write" in capsys.readouterr().err


def test_an_unknown_flag_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "a ball", "--num-inference-step", "3"]) == 2
    assert "no flag --num_inference_step; did you mean --num_inference_steps" in capsys.readouterr().err


def test_one_word_that_is_a_file_name_is_a_script(filmed: list[tuple[Resolved, RunFlags]]) -> None:
    def asked(*words: str) -> dict[str, Any]:
        assert main(["render", *words]) == 0
        data = filmed[-1][0].settings.model_dump(mode="json")
        return {name: data[name] for name in ("script", "prompt") if data[name]}

    assert asked("shots.yaml") == {"script": "shots.yaml"}
    assert asked("lines.TXT", "seed=3") == {"script": "lines.TXT"}
    assert asked("my shots.yaml") == {"script": "my shots.yaml"}
    assert asked("a ball.", "day/night") == {"prompt": ["a ball.", "day/night"]}
    assert main(["render", "shots.yaml", "a ball"]) == 2
    assert asked("--prompt", "shots.yaml", "--prompt", "seed=3") == {"prompt": ["shots.yaml", "seed=3"]}


def test_flags_of_one_run_are_no_settings(filmed: list[tuple[Resolved, RunFlags]]) -> None:
    words = ["--resume", "--dry-run", "--json", "--json-progress", "--accept-license", "longlive-1.3b"]
    assert main(["render", "a ball", *words]) == 0
    assert filmed[0][1] == RunFlags(True, False, True, True, True, ("longlive-1.3b",))


def test_yes_and_no_of_a_flag_are_told_apart(filmed: list[tuple[Resolved, RunFlags]]) -> None:
    for flag in ([], ["--no-recache-on-switch"], ["--recache-on-switch"]):
        assert main(["render", "a ball", *flag]) == 0
    given = ["recache_on_switch" in resolved.given for resolved, _ in filmed]
    assert given == [False, True, True]
    assert [resolved.settings.recache_on_switch for resolved, _ in filmed] == [True, False, True]
