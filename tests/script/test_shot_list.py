"""The native shot list: what it may say, what comes back from its export, and what is refused."""

from __future__ import annotations

import gc
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.json_tree import parse_json
from app.config.lengths import Length
from app.config.nodes import DEEPEST
from app.config.yaml_tree import parse_yaml
from app.errors import UsageMistake
from app.script.script import SOFT_CHUNKS, Script, ScriptShot
from app.script.shot_list import export_native, native_script, parse_native
from benchmarks.robust.mutation import is_told_well
from pipelines.types import Transition

FULL = """\
version: 1
defaults: {style: "35mm film, overcast light", transition: {kind: soft, chunks: 4}}   # for every shot
shots:
  - at: 0s
    prompt: "A red fox walks through fresh snow toward the camera."
  - at: 0:08
    prompt: The fox stops, looks up; "snow" begins to fall.
  - at: 20s
    prompt: [["The fox sleeps under a pine.", 0.7], ["northern lights over a forest", 0.3]]
    transition: {kind: recache}
    guidance_scale: 3
end: 30s
"""


def test_everything_a_shot_list_can_say_is_understood() -> None:
    script = parse_native(FULL, "shots.yaml")
    one, two, three = script.shots
    assert (script.style, script.transition) == ("35mm film, overcast light", Transition("soft", 4))
    assert (one.at, two.at, three.at, script.end) == tuple(Length(n, "s") for n in (0, 8, 20, 30))
    assert two.prompt == 'The fox stops, looks up; "snow" begins to fall.'
    assert three.prompt == (("The fox sleeps under a pine.", 0.7), ("northern lights over a forest", 0.3))
    assert (two.transition, three.transition) == (None, Transition("recache"))
    assert (one.parameters, three.parameters) == ((), (("guidance_scale", 3.0),))
    assert three.place == "shots.yaml, line 8, shots[2]"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cut", Transition("cut")),
        ("keep", Transition("keep")),
        ("recache", Transition("recache")),
        ("re-cache", Transition("recache")),
        ("soft", Transition("soft", SOFT_CHUNKS)),
        ("soft 7", Transition("soft", 7)),
        ("{kind: soft, chunks: 2}", Transition("soft", 2)),
        ("{kind: soft}", Transition("soft", SOFT_CHUNKS)),
        ("{kind: cut, chunks: 0}", Transition("cut")),
    ],
)
def test_transitions_are_written_short_or_long(written: str, meant: Transition) -> None:
    script = parse_native(f"shots: [{{prompt: a, transition: {written}}}]", "a.yaml")
    assert script.shots[0].transition == meant


@pytest.mark.parametrize(("written", "unit"), [("128f", "f"), ("32l", "l"), ("11c", "c"), ("11b", "c"), ("8.5", "s")])
def test_times_are_read_in_every_unit(written: str, unit: str) -> None:
    script = parse_native(f"shots: [{{prompt: a}}, {{at: {written}, prompt: b}}]", "a.yaml")
    assert script.shots[1].at is not None
    assert script.shots[1].at.unit == unit


def test_unquoted_words_are_texts_whatever_yaml_makes_of_them() -> None:
    script = parse_native("shots:\n- prompt: no\n- prompt: 1984\n- prompt: 12:30:45\n", "a.yaml")
    assert [shot.prompt for shot in script.shots] == ["no", "1984", "12:30:45"]
    assert [shot.at for shot in script.shots] == [None] * 3


def test_the_same_list_as_json_is_the_same_script() -> None:
    document = {
        "version": 1,
        "shots": [{"at": 0, "prompt": "a \u00e9\ud83d\ude00"}, {"at": "8s", "prompt": [["b", 1], ["c", 2.5]]}],
        "end": 12.5,
    }
    script = native_script(parse_json(json.dumps(document), "a.json"))
    assert script.shots[0].prompt == "a \u00e9\U0001f600"
    assert parse_native(export_native(script), "a.yaml") == script


# ------------------------------------------------------------------ round trips

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    str.strip
)
weights = st.floats(1e-6, 1e6)
prompts = texts | st.lists(st.tuples(texts, weights), min_size=1, max_size=3).map(tuple)
transitions = st.sampled_from(["recache", "cut", "keep"]).map(Transition) | st.integers(1, 99).map(
    lambda chunks: Transition("soft", chunks)
)
guidance = st.just(()) | st.floats(0, 100).map(lambda value: (("guidance_scale", value),))


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    unit = draw(st.sampled_from("sflc"))
    times = st.floats(1e-6, 86_400) if unit == "s" else st.integers(1, 20_000_000).map(float)
    starts: list[float | None] = [None, *sorted(draw(st.sets(times, max_size=4)))]
    starts = [start if draw(st.booleans()) else None for start in starts]
    shots = [
        ScriptShot(
            None if start is None else Length(start, unit),
            draw(prompts),
            draw(st.none() | transitions),
            draw(guidance),
        )
        for start in starts
    ]
    end = draw(st.none() | times.map(lambda amount: Length(amount, unit)))
    return Script(tuple(shots), end, draw(st.just("") | texts), draw(transitions))


@given(scripts())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_a_script_comes_back_from_its_export_as_it_was(script: Script) -> None:
    written = export_native(script)
    again = parse_native(written, "again.yaml")
    assert again == script
    assert export_native(again) == written


def test_the_round_trip_test_can_fail() -> None:
    script = parse_native(FULL, "a.yaml")
    assert parse_native(FULL.replace("0.7", "0.71"), "a.yaml") != script
    assert parse_native(FULL.replace("at: 20s", "at: 320f"), "a.yaml") != script


# ------------------------------------------------------------------ what is refused

HEAD = "version: 1\nshots:\n"
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\nshots: [{prompt: *a}]\n"
MISTAKES: dict[str, tuple[str, str]] = {
    "not yaml": ("shots:\n  - prompt: 'open\n", "this is not YAML"),
    "tab": ("shots:\n\t- prompt: a\n", "line 2: this is not YAML"),
    "colon in a text": (HEAD + "  - prompt: a fox: stops\n", "line 3: this is not YAML"),
    "anchors bomb": (BOMB, "line 1: anchors and aliases"),
    "alias": ("shots: [{prompt: *fox}]", "anchors and aliases"),
    "anchor": ("shots: [&a {prompt: fox}]", "anchors and aliases"),
    "python tag": (HEAD + "  - prompt: !!python/object/apply:os.system [ls]\n", "line 3: tags such as"),
    "tag on a text": ("shots: [{prompt: !!str fox}]", "tags such as"),
    "local tag": ("shots: !mine [{prompt: fox}]", "tags such as"),
    "merge key": ("shots: [{<<: {prompt: fox}}]", 'has no key "<<"'),
    "equal keys": (HEAD + "  - prompt: a\n    prompt: b\n", 'line 4: the key "prompt" stands there twice'),
    "two documents": (HEAD + "  - prompt: a\n---\nshots: []\n", "line 4: a second document begins"),
    "deep": ("shots: " + "[" * 500 + "]" * 500, f"nested more than {DEEPEST} deep"),
    "never closed": ("shots: " + "[" * 9_000, "shots.yaml, line 1: lists and mappings are nested more than"),
    "list as key": ("? [a]\n: b\n", "a key is a list"),
    "control character": ("shots: [{prompt: a\x07}]", "control character"),
    "empty document": ("# nothing\n", "this file is empty"),
    "a text alone": ("just words", "where a shot list belongs"),
    "a list alone": ("- prompt: a", "where a shot list belongs"),
    "unknown key": ("stlye: grain\nshots: [{prompt: a}]", 'line 1, stlye: a shot list has no key "stlye"'),
    "key of shots": (HEAD + "- promt: a\n", "line 3, shots[0].promt: a shot has no key"),
    "key of defaults": ("defaults: {transitions: cut}\nshots: [{prompt: a}]", "did you mean transition?"),
    "unscheduled parameter": (HEAD + "  - prompt: a\n    strength: 0.5\n", "Use at, prompt, transition, guid"),
    "no shots": ("version: 1", "this shot list has no shots"),
    "empty shots": ("shots: []", "line 1, shots: this list is empty"),
    "shots in words": ("shots: a fox", "where a list of shots belongs"),
    "shot in words": ("shots: [a fox]", "where a shot belongs"),
    "other version": ("version: 2\nshots: [{prompt: a}]", 'version "2" is not one this Rivulet reads'),
    "version in words": ("version: one\nshots: [{prompt: a}]", "where a number belongs"),
    "no prompt": ("shots: [{at: 0s}]", "this shot has no prompt"),
    "empty prompt": (HEAD + "  - prompt:\n", "line 3, shots[0].prompt: this prompt is empty"),
    "blank prompt": ('shots: [{prompt: "  "}]', "a prompt is empty"),
    "prompt as mapping": ("shots: [{prompt: {a: b}}]", "where a text belongs"),
    "NUL escape": (r'shots: [{prompt: "a\0b"}]', "not text"),
    "mix without weights": ("shots: [{prompt: [a, b]}]", "where a list of a text and its weight belongs"),
    "mix of three": ("shots: [{prompt: [[a, 1, 2]]}]", "a weighted prompt is a list of pairs"),
    "empty mix": ("shots: [{prompt: []}]", "this prompt is empty"),
    "weight 0": (HEAD + "  - prompt: [[a, 1], [b, 0]]\n", "line 3, shots[0].prompt[1][1]: a weight of 0"),
    "negative weight": ("shots: [{prompt: [[a, -1]]}]", "a weight of -1"),
    "weight NaN": ("shots: [{prompt: [[a, .nan]]}]", "where a number belongs"),
    "infinite weight": ("shots: [{prompt: [[a, .inf]]}]", "where a number belongs"),
    "weight too large": ("shots: [{prompt: [[a, 1e999]]}]", "where a number belongs"),
    "weight in words": ("shots: [{prompt: [[a, much]]}]", "where a number belongs"),
    "negative time": (HEAD + "  - {at: -3s, prompt: a}\n", "line 3, shots[0].at: '-3s' is before the film begins"),
    "garbled time": ("shots: [{at: soon, prompt: a}]", "Write it like 20s"),
    "empty time": ("shots: [{at: , prompt: a}]", "where a time belongs"),
    "time as list": ("shots: [{at: [1], prompt: a}]", "where a time belongs"),
    "late first shot": ("shots: [{at: 3s, prompt: a}]", "the first shot begins at 3s"),
    "out of order": (HEAD + "- prompt: a\n- {at: 9s, prompt: b}\n- {at: 4s, prompt: c}\n", "line 5, shots[2]"),
    "end at 0": ("shots: [{prompt: a}]\nend: 0s", "ends where it begins"),
    "transition": ("shots: [{prompt: a, transition: sotf}]", "did you mean soft? Write recache, soft, cut or keep."),
    "transition without kind": ("shots: [{prompt: a, transition: {chunks: 4}}]", "this transition has no kind"),
    "transition key": ("shots: [{prompt: a, transition: {kind: soft, chunk: 4}}]", "did you mean chunks?"),
    "length of a cut": ("shots: [{prompt: a, transition: {kind: cut, chunks: 3}}]", "a cut transition takes no length"),
    "soft 0": ("shots: [{prompt: a, transition: soft 0}]", "cannot last 0 chunks"),
    "half a chunk": ("shots: [{prompt: a, transition: {kind: soft, chunks: 1.5}}]", "not a whole number"),
    "guidance in words": ("shots: [{prompt: a, guidance_scale: high}]", "where a number belongs"),
    "guidance out of range": ("shots: [{prompt: a, guidance_scale: -2}]", "guidance_scale cannot be -2"),
    "style as list": ("defaults: {style: [a]}\nshots: [{prompt: a}]", "line 1, defaults.style: this is a list"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_shot_list_gets_its_place_and_one_action(mistake: str) -> None:
    text, said = MISTAKES[mistake]
    with pytest.raises(UsageMistake) as caught:
        parse_native(text, "shots.yaml")
    message = str(caught.value)
    assert said in message
    assert message.startswith("shots.yaml")
    assert is_told_well(message), message


JSON_MISTAKES: dict[str, tuple[str, str]] = {
    "empty": ("", "line 1: the document ends too early"),
    "unclosed": ('{"shots": [\n{"prompt": "a"}\n', 'line 3: here a "," or "]" is missing'),
    "comma at the end": ('{"a": 1,\n}', "line 2: here a key in double quotes is missing"),
    "single quotes": ("{'a': 1}", "a key in double quotes is missing"),
    "word": ('{"a": yes}', '"yes" is not a JSON value'),
    "NaN": ('{"a": NaN}', '"NaN" is not a JSON value'),
    "infinity": ('{"a": -Infinity}', "is not a JSON value"),
    "zero before": ('{"a": 01}', '"01" is not a JSON value'),
    "equal keys": ('{"a": 1,\n"a": 2}', 'line 2: the key "a" stands there twice'),
    "more": ("{} {}", "something follows"),
    "open text": ('{"a": "b', "no closing quote"),
    "escape": ('{"a": "\\x"}', "wrong escape"),
    "deep": ("[" * 100_000, "nested more than"),
    "many": (f"[{'0,' * 3_000}0]", "more than 2000 values are too many"),
}


@pytest.mark.parametrize("mistake", JSON_MISTAKES)
def test_bad_json_gets_its_line(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, said = JSON_MISTAKES[mistake]
    monkeypatch.setattr("app.config.json_tree.MOST_VALUES", 2_000)
    with pytest.raises(UsageMistake) as caught:
        parse_json(text, "a.json")
    assert said in str(caught.value)
    assert is_told_well(str(caught.value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(json_values)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_json_is_read_as_the_standard_library_reads_it(value: object) -> None:
    def plain(node: object) -> object:
        match node.kind:  # type: ignore[attr-defined]
            case "list":
                return [plain(item) for item in node.items]  # type: ignore[attr-defined]
            case "mapping":
                return {key: plain(item) for key, item in node.entries.items()}  # type: ignore[attr-defined]
            case "text":
                return node.written  # type: ignore[attr-defined]
            case _:
                return json.loads(node.written)  # type: ignore[attr-defined]

    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert plain(parse_json(text, "a.json")) == value


@pytest.mark.parametrize(
    "text",
    [
        "shots:\n" + "- prompt: a\n" * 80_000,
        "- " * 500_000,
        "[" * 1_000_000,
        "a: " * 300_000,
        '"' + "\\n" * 400_000,
        "shots: [{prompt: '" + "x" * 990_000 + "'}]",
        "? " * 500_000,
        "x" * 990_000 + ": 1",
        "&a " * 300_000,
        "{" + "a," * 400_000,
    ],
    ids=["shots", "dashes", "brackets", "colons", "escapes", "one text", "keys", "one key", "anchors", "set"],
)
def test_a_megabyte_of_anything_is_judged_quickly(text: str) -> None:
    gc.freeze()  # or the collector walks what other tests imported again and again
    begun = time.process_time()
    with pytest.raises(UsageMistake) as caught:
        parse_native(text, "huge.yaml")
    spent = time.process_time() - begun
    gc.unfreeze()
    assert is_told_well(str(caught.value)), str(caught.value)[:300]
    assert spent < 5


def test_yaml_without_its_c_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    fast = parse_yaml(FULL, "a.yaml")
    monkeypatch.setattr("app.config.yaml_tree._LOADER", yaml.SafeLoader)
    assert parse_yaml(FULL, "a.yaml") == fast
    with pytest.raises(UsageMistake, match="line 2: this is not YAML"):
        parse_yaml("a: 1\n\tb: 2\n", "a.yaml")
