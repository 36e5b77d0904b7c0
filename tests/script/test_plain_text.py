"""Text files of prompts: remarks, other tools' words, encodings; and which words of a command line are files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cli.render import script_among
from app.config.settings import given_by_flags, resolve
from app.errors import UsageMistake
from app.render.batch import read_scripts
from app.script.importers import load_script, parse_script
from app.script.script import Script
from benchmarks.robust.mutation import is_told_well
from pipelines.file_names import is_script_name, names_a_file


def prompts_of(script: Script) -> list[object]:
    return [shot.prompt for shot in script.shots]


def one(text: str, file: str = "a.txt") -> Script:
    (script,) = parse_script(text, file)
    return script


def test_lines_with_a_hash_are_remarks() -> None:
    text = "# my storm film, take 2\na red ball bounces over the sea\n# then\na blue star over the snow\n"
    script = one(text)
    assert prompts_of(script) == ["a red ball bounces over the sea", "a blue star over the snow"]
    assert script.shots[1].place == "a.txt, line 4"
    assert [prompts_of(film) for film in parse_script(text, "a.txt", as_videos=True)] == [
        ["a red ball bounces over the sea"],
        ["a blue star over the snow"],
    ]
    assert prompts_of(one("// x\n#x\na ball # 3\n---\na star")) == ["a ball # 3", "a star"]
    assert prompts_of(one("# Title\n\n- a ball\n- a star\n", "a.md")) == ["a ball", "a star"]
    assert prompts_of(one("1. a ball\n2) a star")) == ["a ball", "a star"]
    assert prompts_of(one("Shot 1: a ball\nShot 2: a star")) == ["a ball", "a star"]
    assert prompts_of(one("Prompt: a ball\nprompt: a star")) == ["a ball", "a star"]
    assert prompts_of(one("Shot 1: a ball\na star")) == ["Shot 1: a ball", "a star"]
    assert prompts_of(one("1. a ball\n3. a star")) == ["1. a ball", "3. a star"], "no list: left as it is"
    assert prompts_of(one("[0s: a ball]\n# then\n[4s: a star]")) == ["a ball", "a star"]
    with pytest.raises(UsageMistake, match=r"a\.txt: there are only remarks in this file\."):
        one("# a\n# b\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('! {Subject}="cat","dog"', "is a macro line"),
        ("a {red|blue} ball", '"{red|blue}" is a choice or a variable'),
        ("{Subject} runs", '"{Subject}" is a choice'),
        ("a ${colour} ball", "is a choice"),
        ("a __colour__ ball", '"__colour__" is a wildcard'),
        ("a __animals/dogs__ ball", "is a wildcard"),
        ("<lora:film_grain:0.8> a ball", "is an adapter or embedding tag"),
        ("a ball, <lyco:x>", "is an adapter"),
        ("embedding:nice, a ball", "is an embedding"),
        ("a (red:1.3) ball", '"(red:1.3)" is emphasis'),
        ("((masterpiece:1.2)), a ball", "is emphasis"),
        ("a [red:blue:0.5] ball", "is prompt editing"),
        ("a [red|blue] ball", "is alternation"),
        ("a (ball:`sin(t)`)", "is a value schedule"),
        ("a ball --ar 16:9", '"--ar" is a flag'),
        ("--prompt a ball", '"--prompt" is a flag'),
        ("Negative prompt: ugly", "is a negative prompt"),
        ("Steps: 20, Sampler: Euler", "is a line of settings"),
        ("```yaml", "is a code fence"),
    ],
)
def test_what_other_tools_would_change_is_refused_by_name(line: str, said: str) -> None:
    for text in (f"a star\n{line}\n", f"0: a star\n30: {line}\n" if line[0] not in "!`NS-" else f"a\n{line}"):
        with pytest.raises(UsageMistake) as caught:
            one(text)
        assert said in str(caught.value)
        assert str(caught.value).startswith("a.txt, line 2: ")
        assert is_told_well(str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "a ball (red), a star [3]",
        "a ball -- and then a star",
        "a race at (12:30)",
        "a score of (3:2)",
        "it costs 5 < 6 > 4",
        "a snake_case and a well-known ball",
        "What a ball! It bounces!",
        "50% of a ball & a star; #2",
        "steps: a ball climbs",
    ],
)
def test_ordinary_prompts_are_left_alone(line: str) -> None:
    assert prompts_of(one(f"{line}\na star")) == [line, "a star"]


def test_negative_prompts_are_left_out_and_told() -> None:
    script = one("a ball --neg ugly, blurry\na star\n")
    assert prompts_of(script) == ["a ball", "a star"]
    assert script.notes == ("What stands behind --neg is left out: there are no negative prompts here.",)
    with pytest.raises(UsageMistake, match="a prompt is empty"):
        one("a ball\n--neg ugly")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_with_their_marks_are_read(encoding: str, tmp_path: Path) -> None:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "a.txt").write_bytes(f"{mark}a ball\r\nein grüner Würfel 😀\r\n".encode(encoding))
    (script,) = load_script(tmp_path / "a.txt")
    assert prompts_of(script) == ["a ball", "ein grüner Würfel 😀"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a ball\n".encode("utf-16-le"), "line 1: this holds a NUL byte"),
        (b"\xff\xfea\0b", "is not UTF-16 to its end"),
        ("a ball".encode("utf-32"), "is UTF-32 text"),
        ("a\ngrün".encode("latin-1"), "line 2: this is not UTF-8 text"),
        ("テスト".encode("shift-jis"), "is not UTF-8 text"),
        (b"a ball\n\0", "line 2: this holds a NUL byte"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not plain text: it holds a NUL byte"),
    ],
)
def test_other_encodings_are_refused_in_one_sentence(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UsageMistake) as caught:
        load_script(tmp_path / "a.txt")
    assert said in str(caught.value)
    assert is_told_well(str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "version: 1\nshots:\n  - prompt: a ball\n"),
        ("a.prompt", '[\n"a ball"\n]'),
        ("film no. 3", "a ball"),
        ("film.v2 final", "a ball"),
        ("A.TXT", "a ball"),
        ("a.Markdown", "a ball"),
    ],
)
def test_content_counts_where_the_ending_says_little(name: str, text: str) -> None:
    assert prompts_of(one(text, name)) == ["a ball"]


@pytest.mark.parametrize("name", ["a.ass", "a.html", "shots.txt.bak", "a.mp4"])
def test_endings_that_are_no_scripts_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageMistake, match=rf"no script ends in \.{name.rsplit('.', 1)[1]}\. Use a shot list"):
        one("a ball", name)


# ------------------------------------------------------------------ words of a command line


@pytest.mark.parametrize(
    "word",
    [
        *(
            "shots.yaml",
            "SHOTS.YML",
            "a.toml",
            "a.md",
            "a.vtt",
            "a.srt",
            "a.csv",
            "a.tsv",
            "a.txt",
            "a.json",
            "a.jsonl",
        ),
        *("night shots.yaml", " shots.yaml", "shots.yaml ", "shots.yaml\n", "my film/night shots.TXT", "über.yaml"),
        *("shots.yam", "shots.txt.bak", "my clip.mp4", "./shots", "../shots", "/tmp/no shots", "~/shots", "-"),
        *("C:\\films\\shots", "https://example.org/shots", "file:///tmp/a"),
    ],
)
def test_words_that_are_meant_as_files(word: str) -> None:
    assert names_a_file(word)


@pytest.mark.parametrize(
    "word",
    [
        *("a red ball", "a red ball.", "A ball. It bounces.", "day/night", "1.5", "3.5 balls", "at 5 p.m.", "U.S.A"),
        *(
            "wait...",
            "a ball...then a star",
            "fire & ice / snow",
            "txt",
            "a yaml",
            "-5 degrees",
            "",
            " ",
            "a\0b",
            "x" * 5000,
        ),
        *("Mr. Ball", "and/or", "24/7", "a ball; a star", "#1", "ein Ball.", "ball.star over the sea"),
    ],
)
def test_words_that_are_prompts(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not names_a_file(word)
    assert script_among([word], others=[]) is None


def test_only_endings_of_scripts_are_script_names() -> None:
    assert is_script_name("night shots.YAML ")
    assert not is_script_name("clip.mp4")
    assert not is_script_name("a red ball. It bounces")


def test_a_file_that_is_there_is_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("night shots.yaml", " lead.yaml", "trail.yaml ", "sea", "a red ball", "film no. 3", "-", "A.TXT"):
        Path(name).write_text("a ball\n")
        assert script_among([name], others=[]) == name


@pytest.mark.parametrize(
    ("words", "others", "said"),
    [
        (
            ["night", "shots.yaml"],
            [],
            "'night shots.yaml' is a file, and its name has spaces in it. Put the name in quotes.",
        ),
        (["folder"], [], "folder is a folder. Give a script in it, or say --prompt folder to film these words."),
        (["night shots.yaml", "b.txt"], [], "night shots.yaml and b.txt are both files. Render one script at a time"),
        (["night shots.yaml", "a ball"], [], "night shots.yaml is a script, and a ball is to be filmed too."),
        (["a ball", "no.yaml"], [], "no.yaml is a script, and a ball is to be filmed too."),
        (["b.txt"], ["a ball"], "b.txt is a script, and a ball is to be filmed too. Give one of them"),
    ],
)
def test_a_file_is_a_script_or_one_clear_error(
    words: list[str], others: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("night shots.yaml", "b.txt"):
        Path(name).write_text("a ball\n")
    Path("folder").mkdir()
    with pytest.raises(UsageMistake) as caught:
        script_among(words, others=others)
    assert said in str(caught.value)
    assert is_told_well(str(caught.value)), str(caught.value)


def test_a_file_that_is_missing_is_told_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("night shots.yaml").write_text("a ball\n")
    for word, said in {
        "nigt shots.yaml": "There is no file nigt shots.yaml; did you mean night shots.yaml? Check its name",
        "no.srt": "There is no file no.srt. Check its name and folder, or say --prompt no.srt to film these words.",
        "./no": "There is no file no. Check its name and folder, or say --prompt ./no to film these words.",
        "-": "There is no file -. Check its name and folder, or say --prompt - to film these words.",
    }.items():
        assert script_among([word], others=[]) == word
        with pytest.raises(UsageMistake) as caught:
            read_scripts(resolve([given_by_flags({"script": word})]))
        assert said in str(caught.value)
        assert is_told_well(str(caught.value)), str(caught.value)


def test_links_to_nowhere_and_pipes_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("nothing")
    os.mkfifo("pipe")
    for name, said in (("link", "There is no file"), ("pipe", "is not an ordinary file")):
        assert script_among([name], others=[]) == name
        with pytest.raises(UsageMistake, match=said):
            load_script(Path(name))
