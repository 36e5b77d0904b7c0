"""Tables and subtitles: rows and cues are shots at their times, and nothing of the table itself is filmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.config.lengths import Length, Rhythm
from app.errors import UsageMistake
from app.media.subtitles import Chapter, chapters_of, write_vtt
from app.script.importers import load_script, parse_script
from app.script.script import Script
from app.script.timeline import resolve
from benchmarks.robust.mutation import is_told_well
from pipelines.types import prompt_text


def one(text: str, file: str) -> Script:
    (script,) = parse_script(text, file)
    return script


def shots_of(script: Script) -> list[tuple[str | None, Any]]:
    return [(None if shot.at is None else str(shot.at), shot.prompt) for shot in script.shots]


SHOTS = [("0s", "a ball, red"), ("8s", "a star")]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ('time,prompt\n0,"a ball, red"\n8,a star\n', None),
        ('prompt,time\n"a ball, red",0\na star,8\n', None),
        ('Start Time,Text\n0:00,"a ball, red"\n0:08,a star\n', None),
        ('start,end,prompt\n0,8,"a ball, red"\n8,12,a star\n', "12s"),
        ('prompt,duration\n"a ball, red",8\na star,4\n', "12s"),
        ('start (s),duration,prompt\n0,8,"a ball, red"\n8,4,a star\n', "12s"),
        ('0,"a ball, red"\n8,a star\n', None),
        ('"a ball, red",0\na star,8\n', None),
        ('0,8,"a ball, red"\n8,12,a star\n', "12s"),
        ('0,8,"a ball, red"\n8,4,a star\n', "12s"),
        ("time;prompt\n0;a ball, red\n8,0;a star\n", None),
        ("sep=;\ntime;prompt\n0;a ball, red\n8;a star\n", None),
        ("# a table\ntime\tprompt\n0\ta ball, red\n# then\n8\ta star\n", None),
        ('#,time,prompt\n1,0,"a ball, red"\n2,8,a star\n', None),
        ('time, prompt\n0, "a ball, red"\n8, a star\n', None),
        ('start,prompt\n00:00:00.000,"a ball,\nred"\n8s,a star\n', None),
    ],
)
def test_a_table_is_a_shot_a_row(text: str, end: str | None) -> None:
    script = one(text, "a.csv")
    assert shots_of(script) == SHOTS
    assert (None if script.end is None else str(script.end)) == end


def test_frames_and_tables_without_times() -> None:
    assert shots_of(one("frame,prompt\n0,a\n30,b", "a.csv")) == [("0f", "a"), ("30f", "b")]
    assert str(one("frame,end,prompt\n0,30,a", "a.csv").end) == "30f"
    assert shots_of(one("prompt\na\nb", "a.csv")) == [(None, "a"), (None, "b")]
    assert shots_of(one("0\ta, b\n8\tc", "a.tsv")) == [("0s", "a, b"), ("8s", "c")]
    assert [shots_of(film) for film in parse_script("prompt\na\nb", "a.csv", as_videos=True)] == [
        [(None, "a")],
        [(None, "b")],
    ]
    assert len(parse_script("time,prompt\n0,a\n8,b", "a.csv", as_videos=True)) == 1
    assert shots_of(one("time,prompt\n0,a\n8,b", "a.txt")) == [("0s", "a"), ("8s", "b")], "told from its heading"


def test_what_a_table_says_beside_is_told() -> None:
    notes = one("id,time,prompt,negative_prompt\n1,0,a --neg x,y\n2,4,b,z", "a.csv").notes
    assert "The column negative_prompt is not read." in notes
    assert any("no negative prompts" in note for note in notes)
    assert one("0,a\n8,b", "a.csv").notes == ("There is no heading: numbers are read as seconds.",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a ball, red\na star", "line 2: 1 columns stand here and 2 above. Put texts with commas in quotes"),
        ("time,prompt\n0,a,b", "line 2: 3 columns stand here and 2 above"),
        ('time,prompt\n0,"a\n8,b', "this row cannot be read"),
        ("time,prompt", "has a heading and no row"),
        ("time,start,prompt\n0,0,a", "two columns say the start of a shot"),
        ("prompt,text\na,b", "two columns say the prompt of a shot"),
        ("start,end,duration,prompt\n0,4,4,a", "end and duration say the same"),
        ("time_ms,prompt\n0,a", 'the column "time_ms" looks like a time and is not known'),
        ("time,prompt\n0,a\n0,b", "line 3: this shot is to begin at 0s, together with"),
        ("time,prompt\n0,a\n8,b\n4,c", "line 4: this shot is to begin at 4s, before"),
        ("time,prompt\n0,a\n-3,b", "line 3: '-3s' is before the film begins"),
        ("time,prompt\n0,a\nsoon,b", "line 3: 'soon' is not a time"),
        ("time,prompt\n0,a\n,b", "line 3: this shot does not say when it begins"),
        ("time,prompt\n0,a\n8,", "line 3: a prompt is empty"),
        ("time,prompt\n2,a", "line 2: the first shot begins at 2s"),
        ("time,prompt\n0,a\n1e9,b", "is not a time"),
        ("start,end,prompt\n0,5,a\n4,8,b", "line 3: this shot begins at 4s, while the one before it lasts until 5s"),
        ("start,end,prompt\n4,2,a", "this shot ends at 2s, before it begins"),
        ("0,3,7,a\n1,2,3,b", "without a heading it is not plain which column is which"),
        ("red,ball\nblue,star", "without a heading it is not plain"),
        ("time,prompt\n0,a <lora:x:1>", 'line 2: "<lora:x:1>" is an adapter'),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageMistake) as caught:
        one(text, "a.csv")
    assert said in str(caught.value)
    assert str(caught.value).startswith("a.csv")
    assert is_told_well(str(caught.value)), str(caught.value)


# ------------------------------------------------------------------ subtitles

SRT = """1
00:00:00,000 --> 00:00:04,000
a <i>red</i> ball
over the sea

2
00:00:04,000 --> 00:00:08,000
{\\an8}a blue star
"""
CUES = [("0s", "a red ball over the sea"), ("4s", "a blue star")]


@pytest.mark.parametrize(
    "text",
    [
        SRT,
        SRT.replace("\n", "\r\n"),
        SRT.replace("\n\n", "\n"),
        SRT.replace("2\n00", "00").replace("1\n00", "00"),
        SRT.replace(",000", ""),
        SRT.replace("00:00:0", "00:0"),
        SRT.replace("08,000", "08,000 X1:1 X2:2"),
        "\n\n" + SRT + "\n\n",
    ],
)
def test_cues_are_shots(text: str) -> None:
    for name in ("a.srt", "a.txt", "subtitles"):
        script = one(text, name)
        assert (shots_of(script), str(script.end)) == (CUES, "8s")


def test_webvtt_with_all_its_parts() -> None:
    text = """WEBVTT - a film

NOTE
nothing
STYLE

STYLE
::cue { color: red }

first
00:00.000 --> 00:04.000 align:start line:0
<v Bob>a fox &amp; <b>a wolf</b> &lt;3

00:04.000 --> 00:08.000
0.70 a fox + 0.30 a wolf
"""
    assert shots_of(one(text, "a.vtt")) == [("0s", "a fox & a wolf <3"), ("4s", (("a fox", 0.7), ("a wolf", 0.3)))]


def test_webvtt_whose_first_cue_follows_its_head_at_once() -> None:
    text = "\n\nWEBVTT\n00:00.000 --> 00:04.000\na ball\n\n00:04.000 --> 00:08.000\na star\n"
    assert shots_of(one(text, "a.vtt")) == [("0s", "a ball"), ("4s", "a star")]


HOSTILE = [
    "a red ball",
    "00:00:00.000 --> 00:00:09.000",
    "two\nlines",
    "<b>bold</b> & <lora:x:1> &lt; {a|b} __c__ (d:1.2) --neg e",
    "NOTE not a note",
    "WEBVTT",
    "30: a number",
    "# a sign",
    "7",
    "狐が雪の上を歩く \N{FOX FACE}",
]


def test_our_own_subtitles_read_back_as_the_same_shots(tmp_path: Path) -> None:
    rhythm = Rhythm(3, 3)
    source = Script(tuple(one("a\n", "x.txt").shots), end=None)
    film = resolve(
        Script(tuple(type(source.shots[0])(None, text) for text in HOSTILE)),
        length=Length(40, "s"),
        fps=16,
        rhythm=rhythm,
    )
    shown = [(shot.actual.second, prompt_text(shot.prompt)) for shot in film.shots]
    write_vtt(chapters_of(shown, film.frames / film.fps), tmp_path / "film.vtt")
    (script,) = load_script(tmp_path / "film.vtt")
    again = resolve(script, length=None, fps=16, rhythm=rhythm)
    assert again.frames == film.frames
    assert [(shot.prompt, shot.actual) for shot in again.shots] == [(shot.prompt, shot.actual) for shot in film.shots]


def test_a_mix_comes_back_from_subtitles(tmp_path: Path) -> None:
    mix = (("a fox, running", 0.7), ("a wolf", 0.3))
    write_vtt([Chapter(0, 4, prompt_text(mix)), Chapter(4, 8, "1.50 metres of snow")], tmp_path / "film.vtt")
    (script,) = load_script(tmp_path / "film.vtt")
    assert shots_of(script) == [("0s", mix), ("4s", "1.50 metres of snow")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.srt", "a ball", 'line 1: "a ball" belongs to no cue'),
        ("a.srt", SRT.replace("-->", "->"), "line 1"),
        (
            "a.srt",
            SRT.replace("04,000\n{", "04,000\n{").replace("00:00:08", "00:00:02"),
            "ends at 2s, before it begins",
        ),
        ("a.srt", SRT.replace("00:00:04,000 -->", "00:00:03,000 -->"), "line 7: this shot begins at 3s, while"),
        ("a.srt", SRT.replace("00:00:00,000", "00:00:01,000"), "line 2: the first shot begins at 1s"),
        ("a.srt", SRT.replace("00:00:00,000", "-00:00:01,000"), "before the film begins"),
        ("a.srt", SRT.replace("00:00:08", "00:00:99"), "is not a time"),
        ("a.srt", SRT.replace("00:00:04,000 --> 00:00:08,000", "00:00:04,000 -> x"), 'line 6: "2" belongs to no cue'),
        ("a.srt", SRT.replace("{\\an8}a blue star", ""), "a prompt is empty"),
        ("a.srt", SRT.replace("08,000\n", "08,000 a blue star\n"), "cannot be read"),
        ("a.srt", SRT + "\nlast words\n", '"last words" belongs to no cue'),
        ("a.srt", SRT.replace("blue", "{blue|red}"), "a choice or a variable"),
        ("a.vtt", "WEBVTT\n", "there is no cue in it"),
        ("a.vtt", "WEBVTT\n\n00:00.000 --> 00:04.000\n<lora:x:1> a\n", "an adapter"),
    ],
)
def test_broken_subtitles_get_one_sentence(name: str, text: str, said: str) -> None:
    with pytest.raises(UsageMistake) as caught:
        one(text, name)
    assert said in str(caught.value)
    assert is_told_well(str(caught.value)), str(caught.value)


def test_a_gap_between_cues_keeps_the_prompt_and_is_told() -> None:
    script = one(SRT.replace("00:00:04,000 -->", "00:00:06,000 -->"), "a.srt")
    assert shots_of(script)[1][0] == "6s"
    assert script.notes == ("From 4s to 6s nothing is asked for: the prompt before it goes on.",)
