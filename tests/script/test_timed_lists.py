"""Lists that say from when on a prompt holds: shots at these times, or a refusal; never filmed with their numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import UsageMistake
from app.script.importers import parse_script
from app.script.script import Script
from benchmarks.robust.mutation import is_told_well


def one(text: str, file: str = "a.txt") -> Script:
    (script,) = parse_script(text, file)
    return script


def shots_of(script: Script) -> list[tuple[str | None, Any]]:
    return [(None if shot.at is None else str(shot.at), shot.prompt) for shot in script.shots]


FRAMES = [("0f", "a ball"), ("30f", "a star")]
SECONDS = [("0s", "a ball"), ("4s", "a star")]


@pytest.mark.parametrize(
    "text",
    [
        "0: a ball\n30: a star\n",
        "0 : a ball\n\n30 : a star",
        "0:a ball\n30:a star",
        "# two shots\n0: a ball\n# then\n30: a star",
        "0:'a ball',\n30:'a star'\n",
        '0: "a ball"\n30: "a star"',
        '"0": "a ball",\n"30": "a star"',
        '"0" :"a ball",\n"30" :"a star",\n',
        "'0': 'a ball'\n'30': 'a star'",
        '"0": a ball\n"30": a star',
        "0:'a ball',30:'a star'",
        '{"0": "a ball", "30": "a star"}',
        '{\n"0": "a ball",\n"30": "a star",\n}',
        "{0:'a ball', 30:'a star'}",
        "{ 0: a ball\n30: a star }",
        "{\n0: a ball\n30: a star\n}",
        '("0": "a ball", "30": "a star")',
        "0: a ball, 30: a star",
        "0: a ball | 30: a star",
        "0 = a ball\n30 = a star",
        "0 -> a ball\n30 -> a star",
        "Frame 0: a ball\nframe 30: a star",
        "0f: a ball\n30 frames: a star",
        "0\uff1aa ball\n30\uff1aa star",
        "0 a ball\n30 a star",
        "[0] a ball\n[30] a star",
        "1. 0: a ball\n2. 30: a star",
        "0: a ball\r\n30: a star\r\n",
        "\ufeff0: a ball\n30: a star",
    ],
)
def test_frames_begin_shots(text: str) -> None:
    assert shots_of(one(text)) == FRAMES
    assert shots_of(parse_script(text, "a.txt", as_videos=True)[0]) == FRAMES, "a timed list is one film"


@pytest.mark.parametrize(
    "text",
    [
        "0s: a ball\n4s: a star",
        "0s a ball\n4s a star",
        "0 sec: a ball\n4 seconds: a star",
        "0:00 a ball\n0:04 a star",
        "0:00: a ball\n0:04: a star",
        "0:00 - a ball\n0:04 - a star",
        "[0:00] a ball\n[00:04] a star",
        "(0:00) a ball\n(0:04) a star",
        "[0s] a ball\n[4s] a star",
        "00:00:00,000 a ball\n00:00:04,000 a star",
        "00:00:00.000 | a ball\n00:00:04.000 | a star",
        "at 0:00: a ball\nat 0:04: a star",
        "- 0:00 a ball\n- 0:04 a star",
        "0\ta ball\n4\ta star",
        "0.000000\t4.000000\ta ball\n4.000000\t9.000000\ta star",
    ],
)
def test_clocks_and_seconds_begin_shots(text: str) -> None:
    assert shots_of(one(text)) == SECONDS


def test_ranges_end_the_film_and_a_gap_is_told() -> None:
    script = one("0:00-0:04 a ball\n0:06 - 0:08 a star")
    assert (shots_of(script), str(script.end)) == ([("0s", "a ball"), ("6s", "a star")], "8s")
    assert script.notes == ("From 4s to 6s nothing is asked for: the prompt before it goes on.",)
    assert str(one("0-16: a\n16-32: b").end) == "32f"
    assert shots_of(one("0:00 - 3 red balls\n0:08 - 2 stars")) == [("0s", "3 red balls"), ("8s", "2 stars")]


@pytest.mark.parametrize(
    "lines",
    [
        ["3 red balls: a race", "a blue star: alone"],
        ["2001: a space odyssey"],
        ["30: the age of a red ball"],
        ["a red ball", "2001: a space odyssey"],
        ["7:30 in the morning, a ball", "a blue star"],
        ["at 5:30 the sun sets", "a ball"],
        ["16:9 wide shot of a ball", "16:9 shot of a star"],
        ["80s: neon and rain", "a ball"],
        ["1990s: a red car", "a star"],
        ["3 red balls", "2 stars", "10 hearts"],
        ["F16: a jet", "a ball"],
        ["a clock at 0:04", "24 stars"],
        ['2 balls: "hello" they say', "a star"],
        ["ratio 4:3, a ball", "take 2: a star"],
        ["2 balls and 0 stars", "1 ball and 2 stars"],
        ["a ball turned by 0 degrees", "a ball turned by 90 degrees"],
    ],
)
def test_prompts_may_hold_numbers_and_colons(lines: list[str]) -> None:
    assert shots_of(one("\n".join(lines))) == [(None, line) for line in lines]


def test_a_line_in_quotes_is_words_whatever_it_begins_with() -> None:
    script = one('"30: the age of a ball"\n"# is a sign"\n"! and __this__"\n')
    assert shots_of(script) == [(None, "30: the age of a ball"), (None, "# is a sign"), (None, "! and __this__")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30: a ball\n60: a star", "line 1: this list begins at 30f, and before it there is nothing. Begin it at 0"),
        ("a ball\n30: a star", "line 1: this line has no time, and others have one. Times are read as 30: a text"),
        ("0: a ball\nover the sea\n30: a star", "line 2: this line has no time"),
        ("0: a\n30: b\n20: c", "line 3: this shot is to begin at 20f, before the one above it at 30f"),
        ("0: a\n0: b", "line 2: this shot is to begin at 0f, together with the one above it"),
        ('"0": "a",\n"00": "b"', "line 2: this shot is to begin at 0f, together"),
        ("0: a\n-5: b", "line 2: '-5f' is before the film begins"),
        ("0: a\n99999999999999: b", 'line 2: frame "99999999999999" is later than a day'),
        ("0s: a\n999999s: b", "later than a day"),
        ("0: a\n4.5: b", 'line 2: "4.5" is neither frames nor seconds. Write 4.5s for seconds'),
        ("0.0: a\n4.0: b", 'line 1: "0.0" is neither frames nor seconds'),
        ("[Frame 0] a\n[Frame 30] b", "line 1: here numbers rise from 0 with the lines"),
        ("0) a\n30) b", "here numbers rise from 0"),
        ("0; a\n30; b", "here numbers rise from 0"),
        ("T+0s: a\nT+4s: b", "here numbers rise from 0"),
        ("**0:00** a\n**0:04** b", "here numbers rise from 0"),
        ("| 0 | a |\n| 30 | b |", "here numbers rise from 0"),
        ("Scene 1 (0:00): a\nScene 2 (0:04): b", "here numbers rise from 0"),
        ("k0: a\nk30: b", "here numbers rise from 0"),
        ("0: a\n50%: b", '"50%" is a share of a film'),
        ("0: a\nmax_f-1: b", 'line 2: "max_f-1" is a sum that another tool works out'),
        ('"0": "a",\n"max_f/2": "b"', 'line 2: "max_f/2" is a sum'),
        ('{"0": "a",\n"(10+5)": "b"}', 'line 2: "(10+5)" is a sum'),
        ("00:00:00:00 a\n00:00:04:12 b", "counts frames behind the seconds"),
        ("0s-5s: a\n4s: b", "line 2: this shot begins at 4s, while the one before it lasts until 5s"),
        ("0s-5s: a\n5s-2s: b", "line 2: this shot ends at 2s, before it begins"),
        ("0:\n30: b", "line 1: a prompt is empty"),
        ('{"0": "a", "30": "b"', "line 1: here the list of times and texts cannot be read"),
        ("0: a [4s] b\n8: c", "line 1: this line holds more than one time"),
        ("0: 4: b\n8: c", "line 1: this line holds more than one time"),
        ("0: a {b|c} ball\n30: d", 'line 1: "{b|c}" is a choice or a variable of another tool'),
    ],
)
def test_what_is_wrong_with_times_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageMistake) as caught:
        one(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("a.txt")
    assert is_told_well(str(caught.value)), str(caught.value)


# ------------------------------------------------------------------ Deforum, AnimateDiff


def test_deforums_prompts_are_read_with_what_belongs_to_them() -> None:
    settings = {
        "W": 512,
        "seed": 4,
        "fps": 15,
        "max_frames": 90,
        "prompts": {"0": "a ball --neg rain", "30": "a star"},
        "animation_prompts_positive": "film grain",
        "animation_prompts_negative": "nsfw",
        "zoom": "0: (1.0025+0.002*sin(1.25*3.14*t/30))",
    }
    for name in ("settings.json", "settings.txt", "settings"):
        script = one(json.dumps(settings, indent=4 if name == "settings.json" else None), name)
        assert shots_of(script) == [("0s", "film grain, a ball"), ("2s", "film grain, a star")]
        assert str(script.end) == "6s"
        assert any("15 a second" in note for note in script.notes)
        assert any("no negative prompts" in note for note in script.notes)


@pytest.mark.parametrize(
    ("document", "shots"),
    [
        ({"0": "a ball", "30": "a star"}, FRAMES),
        ({"animation_prompts": {"0": "a ball", "30": "a star"}, "prompts": ["unused"]}, FRAMES),
        ({"prompts": '{"0": "a ball", "30": "a star"}', "max_frames": 60}, FRAMES),
        ({"prompt_map": {"0": "a ball", "30": "a star"}, "n_prompt": ["x"]}, FRAMES),
        ({"prompt_map": {"0": "x"}, "head_prompt": "a", "tail_prompt": "z"}, [("0f", "a, x, z")]),
        (["a ball", "a star"], [(None, "a ball"), (None, "a star")]),
        ([{"frame": 0, "prompt": "a ball"}, {"frame": 30, "prompt": "a star"}], FRAMES),
        ([{"start": 0, "text": "a ball"}, {"start": "0:04", "text": "a star"}], SECONDS),
        ({"0": 'caf\u00e9 \U0001f600 "x"'}, [("0f", 'café 😀 "x"')]),
    ],
)
def test_shapes_of_json(document: object, shots: list[tuple[str | None, str]]) -> None:
    assert shots_of(one(json.dumps(document), "a.json")) == shots
    assert shots_of(one(json.dumps(document, ensure_ascii=False, indent=2), "a.json")) == shots


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"prompts": {"0": "a", "max_f-1": "b"}}, 'prompts.max_f-1: "max_f-1" is a sum'),
        ({"prompts": {"0": "a", "5": "b"}, "fps": 0}, "fps: 0 is no frame rate"),
        ({"prompts": {}}, "there is no prompt here"),
        ({"prompts": {"5": "a"}}, "the first shot begins at 5f"),
        ({"3": {"class_type": "KSampler"}}, "this is a ComfyUI workflow"),
        ({"nodes": [], "links": []}, "this is a ComfyUI workflow"),
        ({}, "neither shots nor prompts. Use a shot list"),
        ([], "this list is empty"),
        ([1, "a"], "a list holds either texts or records"),
        ([["a", 0]], "a list holds either texts or records"),
        ([{"x": 1}], "no column holds the prompts"),
        (["a {b|c}"], "a choice or a variable"),
        ("a ball", "this is a text, where a script belongs"),
        ({"seed": 3, "prompt": "a"}, "neither shots nor prompts"),
    ],
)
def test_other_json_gets_a_sentence_that_fits(document: object, said: str) -> None:
    with pytest.raises(UsageMistake) as caught:
        one(json.dumps(document), "a.json")
    assert said in str(caught.value)
    assert is_told_well(str(caught.value)), str(caught.value)


def test_a_list_is_a_film_an_item_where_films_are_asked_for() -> None:
    films = parse_script('["a ball", "a star"]', "list.json", as_videos=True)
    assert [shots_of(film) for film in films] == [[(None, "a ball")], [(None, "a star")]]


def test_the_same_shapes_in_yaml_and_toml() -> None:
    assert shots_of(one("0: a ball\n30: a star\n", "a.yaml")) == FRAMES
    assert shots_of(one("- a ball\n- a star\n", "a.yaml")) == [(None, "a ball"), (None, "a star")]
    toml = "[[shots]]\nat = '0s'\nprompt = 'a ball'\n[[shots]]\nat = '4s'\nprompt = 'a star'\n"
    assert shots_of(one(toml, "a.toml")) == SECONDS
    for name, text in (("a.yaml", "seed: 3\n"), ("a.toml", "seed = 3\n")):
        with pytest.raises(UsageMistake, match=r"these are settings and no shots\. Give this file with --config"):
            one(text, name)
