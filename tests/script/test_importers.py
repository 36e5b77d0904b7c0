"""What other tools write, read into scripts; and what LongLive can be told of ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.lengths import Length, Rhythm
from app.config.nodes import LARGEST_FILE
from app.errors import UsageMistake
from app.render.exporting import export_longlive
from app.script.importers import MAX_VIDEOS, load_script, parse_script, switch_at
from app.script.script import Script, ScriptShot, script_of
from app.script.timeline import resolve
from benchmarks.robust.mutation import is_told_well
from pipelines.types import Prompt, Transition


def prompts_of(script: Script) -> list[Prompt]:
    return [shot.prompt for shot in script.shots]


def starts_of(script: Script) -> list[str | None]:
    return [None if shot.at is None else str(shot.at) for shot in script.shots]


def one(text: str, file: str) -> Script:
    (script,) = parse_script(text, file)
    return script


# ------------------------------------------------------------------ txt


def test_lines_of_a_text_are_shots() -> None:
    script = one("a red ball\r\na blue star\n\n", "a.txt")
    assert prompts_of(script) == ["a red ball", "a blue star"]
    assert starts_of(script) == [None, None]
    assert script.shots[1].place == "a.txt, line 2"


WRAPPED = """
A red ball bounces over the wide sea and
the wind blows hard against the small
white sails.

A blue star drifts over the snow and the
night is dark.
"""


def test_prose_that_a_narrow_page_wrapped_is_a_shot_a_paragraph() -> None:
    script = one(WRAPPED, "a.txt")
    assert prompts_of(script) == [
        "A red ball bounces over the wide sea and the wind blows hard against the small white sails.",
        "A blue star drifts over the snow and the night is dark.",
    ]
    assert script.shots[1].place == "a.txt, line 6"
    assert script.notes == (
        "Read as 2 paragraphs, a shot each: joined 3 lines into shot 1, joined 2 lines into shot 2.",
    )


def test_blank_lines_between_prompts_change_nothing() -> None:
    for text in ("a red ball\na blue star\n\na heart\n", "a red ball\n\na blue star\n \na heart"):
        script = one(text, "a.txt")
        assert prompts_of(script) == ["a red ball", "a blue star", "a heart"]
        assert script.notes == ()
    long = "a red ball bounces over the wide and stormy sea of the north"
    assert prompts_of(one(f"{long}\na blue star\n\n{long}", "a.txt")) == [long, "a blue star", long]


def test_lines_of_a_text_are_videos_when_asked() -> None:
    scripts = parse_script("a red ball\n\n[0s: a] [2s: b]\na blue star\n", "a.txt", as_videos=True)
    assert [prompts_of(script) for script in scripts] == [["a red ball"], ["a", "b"], ["a blue star"]]
    assert [script.place for script in scripts] == ["a.txt, line 1", "a.txt", "a.txt, line 4"]


def test_words_with_brackets_are_no_times() -> None:
    assert prompts_of(one("a ball [red] and 3 stars [3]\n[a] fox", "a.txt")) == [
        "a ball [red] and 3 stars [3]",
        "[a] fox",
    ]


# ------------------------------------------------------------------ LongLive, MemFlow


def test_a_line_of_jsonl_is_a_video() -> None:
    text = '{"prompts": ["a", "b", "c"]}\n\n{"prompts": ["d", "e", "f"], "id": 3}\n'
    scripts = parse_script(text, "a.jsonl", switch_frame_indices=(40, 80))
    assert [prompts_of(script) for script in scripts] == [["a", "b", "c"], ["d", "e", "f"]]
    assert [starts_of(script) for script in scripts] == [["0l", "40l", "80l"]] * 2
    assert scripts[1].notes == ('"id" is not read.',)
    assert scripts[1].shots[2].place == "a.jsonl, line 3, prompts[2]"


def test_without_indices_its_prompts_share_the_film() -> None:
    assert starts_of(one('{"prompts": ["a", "b"]}', "a.jsonl")) == [None, None]
    assert starts_of(one('{"prompts": ["a", "b"], "switch_frame_indices": [21]}', "a.jsonl")) == ["0l", "21l"]


def test_switch_frame_indices_are_latent_frames() -> None:
    script = switch_at(script_of(["a", "b", "c"]), (40, 80))
    film = resolve(script, length=Length(120, "l"), fps=16, rhythm=Rhythm(3, 3))
    assert [shot.requested.latent for shot in film.shots] == [0, 40, 80]
    assert [shot.actual.latent for shot in film.shots] == [0, 42, 81]  # the next chunks of three
    assert [shot.requested.frame for shot in film.shots] == [0, 157, 317]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9).filter(
    str.strip
)


@given(st.lists(texts, min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 30))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_a_film_comes_back_from_longlives_format_at_the_same_chunks(prompts: list[str], chunk: int, more: int) -> None:
    rhythm = Rhythm(chunk, chunk)
    length = Length(len(prompts) + more, "c")
    film = resolve(script_of(prompts), length=length, fps=16, rhythm=rhythm)
    line = export_longlive(film)
    assert "\n" not in line
    (script,) = parse_script(line, "a.jsonl")
    again = resolve(script, length=length, fps=16, rhythm=rhythm)
    assert [(shot.prompt, shot.actual) for shot in again.shots] == [(shot.prompt, shot.actual) for shot in film.shots]
    assert export_longlive(again) == line


@pytest.mark.parametrize(
    ("shot", "said"),
    [
        (ScriptShot(None, (("a", 0.5), ("b", 0.5))), "Shot 2: LongLive's format cannot carry the weights"),
        (ScriptShot(None, "b", parameters=(("guidance_scale", 2.0),)), "cannot carry its guidance_scale"),
        (ScriptShot(None, "b", Transition("soft", 2)), "cannot carry its soft transition"),
        (ScriptShot(None, "b", Transition("cut")), "cannot carry its cut transition"),
    ],
)
def test_what_longlive_has_no_words_for_is_refused(shot: ScriptShot, said: str) -> None:
    film = resolve(Script((ScriptShot(None, "a"), shot)), length=None, fps=16, rhythm=Rhythm(3, 3))
    with pytest.raises(UsageMistake, match=said) as caught:
        export_longlive(film)
    assert str(caught.value).endswith("Export the native shot list.")


# ------------------------------------------------------------------ FramePack-Studio


def test_timed_sections_are_shots_and_what_is_outside_is_style() -> None:
    script = one("[5s-10.5s: a wolf]\n[0s: a fox\nruns] film  grain,\nsnow", "a.txt")
    assert prompts_of(script) == ["a fox runs", "a wolf"]
    assert starts_of(script) == ["0s", "5s"]
    assert (script.style, str(script.end)) == ("film grain, snow", "10.5s")
    assert script.shots[0].place == "a.txt, line 2"
    assert one("[0s: a] [2s: b]", "a.txt").end is None


def test_a_gap_between_sections_keeps_the_prompt() -> None:
    script = one("[0s-1s: a] [6s-8s: b]", "a.txt")
    assert script.notes == ("From 1s to 6s nothing is asked for: the prompt before it goes on.",)
    film = resolve(script, length=None, fps=16, rhythm=Rhythm(3, 3))
    assert film.frames == 128
    assert [shot.actual.frame for shot in film.shots] == [0, 105]
    assert film.blend(5) == (("a", 1.0),)


# ------------------------------------------------------------------ Daydream Scope


def scope(*prompts: dict[str, object], **more: object) -> str:
    return json.dumps({"prompts": prompts, "version": "2.0"} | more, indent=1)


def test_a_scope_timeline_becomes_a_script() -> None:
    text = scope(
        {"startTime": 4.25, "endTime": 9, "text": "a heart", "transitionSteps": 3},
        {"startTime": 9, "endTime": 9, "text": "nothing"},
        {
            "startTime": 0,
            "endTime": 4.2500001,
            "prompts": [{"text": "a", "weight": 70}, {"text": "b", "weight": 30}, {"text": "c", "weight": 0}],
            "temporalInterpolationMethod": "slerp",
        },
        settings={"seed": 4},
        version="2.1",
    )
    script = one(text, "timeline.json")
    assert prompts_of(script) == [(("a", 0.7), ("b", 0.3)), "a heart"]
    assert starts_of(script) == ["0s", "4.25s"]
    assert [shot.transition for shot in script.shots] == [None, Transition("soft", 3)]
    assert script.end == Length(9, "s")
    assert any("slerp" in note for note in script.notes)
    assert script.shots[1].place == "timeline.json, line 3, prompts[0]"


def test_a_single_text_needs_no_weight() -> None:
    entry = {"startTime": 0, "endTime": 3, "prompts": [{"text": "a ball", "weight": 100}]}
    assert prompts_of(one(scope(entry), "a.json")) == ["a ball"]


def test_a_scope_workflow_has_the_same_timeline_in_its_own_words() -> None:
    entries = [
        {"start_time": 0, "end_time": 8, "prompts": [{"text": "a ball", "weight": 1.0}], "transition_steps": None},
        {
            "start_time": 8,
            "end_time": 12,
            "prompts": [{"text": "a", "weight": 25}, {"text": "b", "weight": 75}],
            "transition_steps": 2,
        },
    ]
    document = {"format": "scope-workflow", "format_version": "1.0", "pipelines": [], "timeline": {"entries": entries}}
    script = one(json.dumps(document), "my.scope-workflow.json")
    assert prompts_of(script) == ["a ball", (("a", 0.25), ("b", 0.75))]
    assert script.shots[1].transition == Transition("soft", 2)
    assert script.end == Length(12, "s")


# ------------------------------------------------------------------ which kind a file is


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "shots: [{prompt: a}, {prompt: b}]"),
        ("a.YML", "shots: [{prompt: a}, {prompt: b}]"),
        ("a.json", '{"shots": [{"prompt": "a"}, {"prompt": "b"}]}'),
        ("b.json", '{"prompts": ["a", "b"]}'),
        ("c.json", scope({"startTime": 0, "text": "a"}, {"startTime": 3, "text": "b"})),
        ("a.jsonl", '{"prompts": ["a", "b"]}'),
        ("a.txt", "a\nb"),
        ("b.txt", "[0s: a] [2s: b]"),
        ("c.txt", '{"prompts": ["a", "b"]}'),
        ("film", "version: 1\nshots: [{prompt: a}, {prompt: b}]"),
        ("film.prompts", "a\nb"),
        ("x" * 90 + ".yaml", "shots: [{prompt: a}, {prompt: b}]"),
        ("two\nlines.json", '{"prompts": ["a", "b"]}'),
    ],
)
def test_the_kind_of_a_file_is_told_from_its_name_and_content(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    (script,) = load_script(tmp_path / name)
    assert prompts_of(script) == ["a", "b"]


# ------------------------------------------------------------------ what is refused

MISTAKES: dict[str, tuple[str, str, str]] = {
    "empty file": ("a.txt", " \n\n", "a.txt: this file is empty"),
    "empty yaml": ("a.yaml", "", "this file is empty"),
    "NUL in a text": ("a.txt", "a\nb \0 c", "line 2: this holds a NUL byte"),
    "overlong line": ("a.txt", "a\n" + "x" * 20_000, "a.txt, line 2: a prompt has 20000 characters"),
    "too many lines": ("a.txt", "a\n" * 10_001, "10001 shots are too many"),
    "section without s": ("a.txt", "[0s: a] [5: b]", 'the section "[5: b]" cannot be read. Write it like [5s: a'),
    "section without colon": ("a.txt", "[0s: a]\n[5s b]", "a.txt, line 2: the section"),
    "old form on one line": ("a.txt", "[0s] a fox [5s] a wolf", "line 1: this line holds more than one time"),
    "open section": ("a.txt", "[0s: a] [5s: b", "cannot be read"),
    "negative section": ("a.txt", "[0s: a] [-5s: b]", "cannot be read"),
    "section backwards": ("a.txt", "[0s: a] [5s-2s: b]", "this section ends at 2s, before it begins"),
    "overlapping sections": ("a.txt", "[0s-5s: a]\n[4s: b]", "line 2: this shot begins at 4s, while the one before it"),
    "equal sections": ("a.txt", "[0s: a] [0s: b]", "together with the one above it"),
    "empty section": ("a.txt", "[0s: ] [2s: b]", "a prompt is empty"),
    "late section": ("a.txt", "film grain [2s: b]", "the first shot begins at 2s"),
    "endless section": ("a.txt", "[0s: a] [999999s: b]", "later than a day"),
    "jsonl broken": ("a.jsonl", '{"prompts": ["a"]}\n{"prompts": ["a"\n', "a.jsonl, line 2: here a"),
    "jsonl of words": ("a.jsonl", "a red ball", 'line 1: "a" is not a JSON value'),
    "jsonl of lists": ("a.jsonl", '["a"]', "where a line of prompts belongs"),
    "jsonl without prompts": ("a.jsonl", '{"prompt": "a"}', "this line has no prompts"),
    "jsonl without any": ("a.jsonl", '{"prompts": []}', "0 prompts are too few"),
    "jsonl of numbers": ("a.jsonl", '{"prompts": ["a", 3]}', "prompts[1]: this is a number, where a text belongs"),
    "jsonl empty prompt": ("a.jsonl", '{"prompts": ["a", ""]}', "a prompt is empty"),
    "jsonl surrogate": ("a.jsonl", '{"prompts": ["a \\ud800"]}', "not text"),
    "jsonl indices": ("a.jsonl", '{"prompts": ["a", "b"], "switch_frame_indices": [1, 2]}', "2 prompts need 1 switch"),
    "jsonl half index": ("a.jsonl", '{"prompts": ["a", "b"], "switch_frame_indices": [1.5]}', "not a whole number"),
    "jsonl index below": ("a.jsonl", '{"prompts": ["a", "b"], "switch_frame_indices": [-4]}', "a time of -4l"),
    "jsonl index words": ("a.jsonl", '{"prompts": ["a", "b"], "switch_frame_indices": "1"}', "where a list of latent"),
    "json of another kind": ("a.json", '{"name": "x"}', "this is no script that Rivulet knows"),
    "key over lines": ("a.json", '{"shots": [{"prompt": "a", "x\\ny": 1}]}', "a.json, line 1, shots[0].x\\ny: a shot"),
    "json list": ("a.json", "[1]", "a list holds either texts or records"),
    "scope version": ("a.json", scope({"startTime": 0, "text": "a"}, version="1.0"), 'version "1.0" are not read'),
    "scope nothing": ("a.json", scope({"startTime": 1, "endTime": 1, "text": "a"}), "there is no prompt on this"),
    "scope no start": ("a.json", scope({"text": "a"}), "line 3, prompts[0]: this prompt has no startTime"),
    "scope no text": ("a.json", scope({"startTime": 0}), "this prompt has no text"),
    "scope start in words": ("a.json", scope({"startTime": "0s", "text": "a"}), "where a number belongs"),
    "scope negative": ("a.json", scope({"startTime": -1, "text": "a"}), "-1 seconds are not within a day"),
    "scope backwards": ("a.json", scope({"startTime": 3, "endTime": 1, "text": "a"}), "ends at 1s, before it begins"),
    "scope late": ("a.json", scope({"startTime": 3, "endTime": 5, "text": "a"}), "the first shot begins at 3s"),
    "scope overlap": (
        "a.json",
        scope({"startTime": 0, "endTime": 5, "text": "a"}, {"startTime": 4, "text": "b"}),
        "line 8, prompts[1]: this shot begins at 4s",
    ),
    "scope weight": (
        "a.json",
        scope({"startTime": 0, "prompts": [{"text": "a", "weight": 170}]}),
        "the weight 170 is out of range. Give 0 to 100.",
    ),
    "scope weights 0": (
        "a.json",
        scope({"startTime": 0, "prompts": [{"text": "a", "weight": 0}]}),
        "every text of this prompt has weight 0",
    ),
    "scope no weight": ("a.json", scope({"startTime": 0, "prompts": [{"text": "a"}]}), "its weight is missing"),
    "scope texts": ("a.json", scope({"startTime": 0, "prompts": ["a"]}), "where a text with its weight belongs"),
    "scope steps": ("a.json", scope({"startTime": 0, "text": "a", "transitionSteps": -1}), "cannot last -1 steps"),
    "scope half a step": ("a.json", scope({"startTime": 0, "text": "a", "transitionSteps": 1.5}), "not a whole"),
    "workflow without timeline": ("a.json", '{"format": "scope-workflow", "timeline": null}', "has no timeline"),
    "workflow without entries": ("a.json", '{"format": "scope-workflow", "timeline": {}}', "has no entries"),
    "workflow of words": ("a.json", '{"format": "scope-workflow", "timeline": "x"}', "where a timeline belongs"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_file_gets_its_place_and_one_action(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, text, said = MISTAKES[mistake]
    Path(name).write_text(text, encoding="utf-8", newline="")
    with pytest.raises(UsageMistake) as caught:
        load_script(Path(name))
    message = str(caught.value)
    assert said in message
    assert message.startswith(name)
    assert is_told_well(message), message


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"a\nein gr\xfcner W\xfcrfel")
    (tmp_path / "utf16.txt").write_bytes("a ball".encode("utf-16-le"))
    (tmp_path / "large.txt").write_bytes(b"x" * (LARGEST_FILE + 1))
    os.mkfifo(tmp_path / "pipe.txt")
    for name, said in {
        "no.txt": "There is no file",
        ".": "is a folder",
        "pipe.txt": "is not an ordinary file",
        "latin.txt": "latin.txt, line 2: this is not UTF-8",
        "utf16.txt": "NUL byte",
        "large.txt": "is larger than 1 MB. Split it",
        "a\0.txt": "NUL byte",
        "\udcff.txt": "There is no file",
        "x" * 300: "cannot be read",
        "latin.txt/a.txt": "cannot be read",
        "/dev/zero": "is not an ordinary file",
    }.items():
        with pytest.raises(UsageMistake) as caught:
            load_script(tmp_path / name)
        assert said in str(caught.value)
        assert is_told_well(str(caught.value)), str(caught.value)


def test_too_many_videos_and_wrong_switches_are_refused() -> None:
    with pytest.raises(UsageMistake, match=f"Give at most {MAX_VIDEOS}"):
        parse_script("a\n" * (MAX_VIDEOS + 1), "a.txt", as_videos=True)
    with pytest.raises(UsageMistake, match=r"have times already\. Leave out --switch_frame_indices"):
        parse_script("[0s: a] [2s: b]", "a.txt", switch_frame_indices=[3])
    with pytest.raises(UsageMistake, match="2 prompts need 1 switch frame indices, not 2"):
        parse_script("a\nb", "a.txt", switch_frame_indices=[3, 6])
    with pytest.raises(UsageMistake, match=r"a\.txt, line 3: this shot is to begin at 3l"):
        parse_script("a\nb\nc", "a.txt", switch_frame_indices=[6, 3])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a red ball\n\n# then\na blue star", "prompts, one a line"),
        (WRAPPED, "paragraphs, a shot each"),
        ("0:00 a red ball\n0:04 a blue star", "a timed list"),
        ("[0s: a red ball]\n[4s: a blue star]", "FramePack's timed sections"),
        ('"0": "a red ball",\n"32": "a blue star"', "prompt travel"),
        ("start,prompt\n0,a red ball\n4,a blue star", "a table"),
        ("1\n00:00:00,000 --> 00:00:04,000\na red ball\n\n2\n00:00:04,000 --> 00:00:08,000\na star\n", "subtitles"),
        ("shots:\n- prompt: a red ball\n- prompt: a blue star\n", "a shot list"),
        ('{"prompts": ["a red ball", "a blue star"]}', "LongLive's prompts"),
        ('["a red ball", "a blue star"]', "a list of prompts"),
    ],
)
def test_a_script_says_what_it_was_written_as_whatever_it_is_called(text: str, name: str) -> None:
    script = one(text, "a.txt")
    assert (script.written_as, len(script.shots)) == (name, 2)
