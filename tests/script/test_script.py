"""Scripts before they meet a model: what can be judged without knowing a frame."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.lengths import Length, parse_length, parse_moment
from app.errors import UsageMistake
from app.script.importers import parse_script
from app.script.script import (
    MAX_CHARACTERS,
    MAX_SHOTS,
    PARAMETERS,
    RANGES,
    Script,
    ScriptShot,
    apply_style,
    check_script,
    script_of,
)
from benchmarks.robust.fuzz_scripts import SCRIPTS
from benchmarks.robust.mutation import is_told_well, mutate, run
from pipelines.types import Controls, Prompt, Transition


def shot(at: Length | None = None, prompt: Prompt = "a ball", **more: object) -> ScriptShot:
    return ScriptShot(at, prompt, place="shots.yaml, line 7, shots[1]", **more)  # type: ignore[arg-type]


def seconds(amount: float) -> Length:
    return Length(amount, "s")


MISTAKES: dict[str, tuple[Script, str]] = {
    "no shots": (Script(()), "There is no prompt. Say what to show"),
    "too many shots": (Script((shot(),) * (MAX_SHOTS + 1)), f"Give at most {MAX_SHOTS}"),
    "empty prompt": (Script((shot(prompt=""),)), "line 7, shots[1]: a prompt is empty. Say"),
    "blank prompt": (Script((shot(prompt=" \t\n"),)), "a prompt is empty"),
    "NUL": (Script((shot(prompt="a \0 ball"),)), r'("a \x00 ball") holds bytes that are not text'),
    "surrogate": (Script((shot(prompt="a \udcff ball"),)), "Type it again as UTF-8"),
    "overlong": (Script((shot(prompt="x" * (MAX_CHARACTERS + 1)),)), f"Give at most {MAX_CHARACTERS}"),
    "overlong with style": (Script((shot(prompt="x" * 9_000),), style="y" * 2_000), "11000 characters, style included"),
    "garbled style": (Script((shot(),), style="\0", place="a.yaml"), "the style"),
    "empty mix": (Script((shot(prompt=()),)), "a weighted prompt of 0 texts"),
    "large mix": (Script((shot(prompt=(("a", 1.0),) * 17),)), "Give 1 to 16"),
    "empty text in a mix": (Script((shot(prompt=(("a", 1.0), (" ", 1.0))),)), "a prompt is empty"),
    "weight 0": (Script((shot(prompt=(("a", 0.0),)),)), "the weight 0 is not above 0"),
    "negative weight": (Script((shot(prompt=(("a", -1.0),)),)), "the weight -1"),
    "infinite weight": (Script((shot(prompt=(("a", math.inf),)),)), "the weight inf"),
    "weight NaN": (Script((shot(prompt=(("a", math.nan),)),)), "the weight nan"),
    "negative time": (Script((shot(seconds(-1)),)), "a time of -1s is not in the film. Give one from 0 on."),
    "endless time": (Script((shot(seconds(math.inf)),)), "a time of infs"),
    "half a frame": (Script((shot(Length(1.5, "f")),)), "fraction of a frame"),
    "unknown unit": (Script((shot(Length(1, "x")),)), "no unit"),
    "hardly a time": (Script((shot(), shot(seconds(1e-20)))), "Write 0s"),
    "end at 0": (Script((shot(),), end=seconds(0), place="a.yaml"), "the film ends where it begins"),
    "first shot late": (Script((shot(seconds(3)),)), "the first shot begins at 3s, and before it there is none"),
    "same time": (Script((shot(seconds(0)), shot(seconds(4)), shot(seconds(4)))), "together with the one above it"),
    "out of order": (Script((shot(seconds(0)), shot(seconds(4)), shot(seconds(2)))), "Give it a time after 4s"),
    "parameter": (Script((shot(parameters=(("guidance_scal", 1.0),)),)), "did you mean guidance_scale. Use"),
    "parameter not near": (Script((shot(parameters=(("strength", 1.0),)),)), "Use guidance_scale"),
    "parameter twice": (Script((shot(parameters=(("guidance_scale", 1.0),) * 2),)), "given twice"),
    "parameter out of range": (Script((shot(parameters=(("guidance_scale", 500.0),)),)), "Give 0 to 100"),
    "parameter NaN": (Script((shot(parameters=(("guidance_scale", math.nan),)),)), "cannot be nan"),
    "endless transition": (Script((shot(transition=Transition("soft", 20_000)),)), "Give 1 to 10000"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_script_no_model_could_film_is_refused_with_its_place(mistake: str) -> None:
    script, said = MISTAKES[mistake]
    with pytest.raises(UsageMistake) as caught:
        check_script(script)
    assert said in str(caught.value)
    assert is_told_well(str(caught.value))


def test_a_good_script_is_not_refused() -> None:
    mixed = (("a fox", 0.7), ("a wolf", 0.3))
    shots = (shot(seconds(0)), shot(None, mixed), shot(Length(40, "l"), parameters=(("guidance_scale", 3.0),)))
    check_script(Script(shots, seconds(30), "film grain", Transition("soft", 4)))
    assert set(RANGES) == set(PARAMETERS)


def test_prompts_of_the_command_line_are_a_script() -> None:
    script = script_of(["a ball", "a star"], transition=Transition("cut"), style="grain")
    assert [shot.at for shot in script.shots] == [None, None]
    assert script.prompts == ("a ball, grain", "a star, grain")
    with pytest.raises(UsageMistake, match=r"^A prompt is empty"):
        script_of([" "])


def test_style_is_appended_to_every_text() -> None:
    assert apply_style("a fox ", " film grain ") == "a fox, film grain"
    assert apply_style((("a fox", 0.7), ("a wolf", 0.3)), "grain") == (("a fox, grain", 0.7), ("a wolf, grain", 0.3))
    assert apply_style("a fox", " ") == "a fox"


def test_what_is_checked_here_is_never_refused_by_the_engine() -> None:
    for good in (script_of(["a ball"]), Script((shot(prompt=(("a", 1e-6),)),))):
        check_script(good)
        for prompt in good.prompts:
            Controls(prompt)
    with pytest.raises(ValueError, match="empty"):
        Controls(" ")


@given(st.floats(1e-6, 86_400) | st.just(0.0), st.integers(0, 20_000_000), st.sampled_from("flc"))
@settings(max_examples=100, derandomize=True)
def test_a_time_is_written_as_it_is_read(amount: float, count: int, unit: str) -> None:
    for time in (seconds(amount), Length(float(count), unit)):
        assert parse_moment(str(time)) == time
    assert str(seconds(8)) == "8s"
    assert str(Length(320.0, "f")) == "320f"


@pytest.mark.parametrize("text", ["0", "0s", "0:00", "0f", "0l", "0c"])
def test_a_film_can_begin_at_zero_and_not_last_zero(text: str) -> None:
    assert parse_moment(text).amount == 0
    with pytest.raises(UsageMistake, match="above zero"):
        parse_length(text)


@pytest.mark.parametrize("text", ["", "soon", "-3s", "1.5f", "0:75", "25h", "nan", "1e3", "9" * 400])
def test_a_garbled_time_is_refused(text: str) -> None:
    with pytest.raises(UsageMistake, match=r"Write .*\d"):
        parse_moment(text)


# ------------------------------------------------------------------ whatever a file holds


def test_mutated_scripts_are_read_or_refused_in_one_sentence() -> None:
    rows = run(700, seed=5, targets=SCRIPTS)
    assert [row["others"] for row in rows] == [[]] * len(rows)
    assert sum(row["accepted"] for row in rows) > 50
    assert sum(row["refused"] for row in rows) > 300
    assert all(row["slowest_s"] < 2 for row in rows)


def test_the_fuzz_sees_what_escapes_and_what_is_told_badly() -> None:
    def crash(data: bytes, name: str) -> None:
        raise KeyError(name)

    def mumble(data: bytes, name: str) -> None:
        raise UsageMistake("no")

    rows = run(10, targets={"a": (b"abc", crash), "b": (b"abc", mumble)})
    assert [(row["accepted"], row["other_exceptions"]) for row in rows] == [(0, 5), (0, 5)]


def test_every_seed_of_the_fuzz_is_a_good_script() -> None:
    for name, (data, read) in SCRIPTS.items():
        read(data, name)
    rng = random.Random(0)
    assert len({mutate(SCRIPTS["shots.yaml"][0], rng) for _ in range(50)}) > 45


@given(st.binary(max_size=60), st.sampled_from(["a.yaml", "a.json", "a.jsonl", "a.txt", "a"]))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_arbitrary_text_is_read_or_refused(data: bytes, name: str) -> None:
    text = data.decode("latin-1")
    told, scripts = "", list[Script]()
    try:
        scripts = parse_script(text, name)
    except UsageMistake as mistake:
        told = str(mistake)
    assert is_told_well(told) if told else all(script.shots for script in scripts)
