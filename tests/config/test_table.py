"""The table of settings: one entry is everywhere a setting has to be, and what it says of itself is true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from app.cli.main import main
from app.config.lengths import parse_length
from app.config.readers import Whole
from app.config.setting import REPLAY, Group
from app.config.settings_page import PAGE, page
from app.config.table import READERS, TABLE, WIRED
from app.errors import UsageMistake
from app.jobs.job import VideoRequest
from app.record.beginning import BeginningKind
from app.record.request import LEFT_OUT, SEGMENT_CHUNKS
from app.record.sidecar import Carried, Config
from app.record.video import VideoRecord
from app.render.batch import USUAL_FILE
from app.script.script import SOFT_CHUNKS
from pipelines.presets import PRESETS
from pipelines.presets.knobs import KNOBS, LARGEST_WINDOW, MOST_STEPS, KnobError, apply_knobs

ROOT = Path(__file__).resolve().parents[2]

ENTRY = """    grain: int = _encoded(
        3,
        "Grain of the film.",
        Whole(0, 9),
        unit="grains",
        aliases=("film_grain",),
        first=True,
        wire=Wire("grain", 1, 5),
        control=Control("Grain", "More looks older", EVERYWHERE, slider=(1, 4, 1)),
    )
"""
BEFORE = "    crf: int = "
ELSEWHERE = """
import contextlib, io, json, sys, types
from pathlib import Path

source = Path("app/config/table.py").read_text(encoding="utf-8")
before, entry = sys.argv[1:]
assert source.count(before) == 1
import app.config
table = types.ModuleType("app.config.table")
sys.modules["app.config.table"] = app.config.table = table
exec(compile(source.replace(before, entry + before), "app/config/table.py", "exec"), table.__dict__)

from app.cli.main import main
from app.config.settings import given_by_overrides, parse_config, resolve
from app.config.settings_page import page
from app.errors import UsageMistake
from app.jobs.job import VideoRequest, render_words
from app.live.message_reader import read_message
from app.live.messages import Set, Settings, WireError
from app.server.controls import controls
from pipelines.presets import PRESETS
import app.render.batch

def refusal(act):
    try:
        return act()
    except (UsageMistake, WireError) as mistake:
        return str(mistake)

asked = []
app.render.batch.film = lambda resolved, flags: asked.append(resolved.settings.grain) or 0
assert main(["render", "a ball"]) == 0
assert main(["render", "a ball", "--grain", "4"]) == 0
assert main(["render", "a ball", "--film-grain=5"]) == 0
help_ = io.StringIO()
with contextlib.redirect_stdout(help_):
    main(["render", "--help"])
    main(["render", "--help_all"])
file = parse_config("output: {grain: 7}", "f.yaml")
job = VideoRequest(prompt="a ball", settings={"grain": 2})
print(json.dumps({
    "flags": asked,
    "help": help_.getvalue(),
    "override": resolve([given_by_overrides(["film_grain=6"])]).settings.grain,
    "file": [resolve([file]).settings.grain, resolve([file]).origin["grain"]],
    "mistake": refusal(lambda: parse_config("seed: 1\\ngrain: 12", "f.yaml")),
    "job": render_words(job),
    "described": VideoRequest.model_json_schema()["properties"]["settings"]["description"],
    "wire": read_message('{"type": "session.set", "grain": 2}').given(),
    "beyond": refusal(lambda: read_message('{"type": "session.set", "grain": 6}')),
    "told": Settings.of({"grain": 2, "jpeg_quality": 90}).model_dump()["grain"],
    "page": [control for control in controls(PRESETS["embedded"]) if control["name"] == "grain"],
    "docs": [line for line in page().splitlines() if "`grain`" in line],
}))
"""


def test_one_entry_is_a_setting_everywhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, BEFORE, ENTRY], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["flags"] == [3, 4, 5]
    assert len(re.findall(r"--grain N +Grain of the film\. \[3\]", seen["help"])) == 1
    assert (
        len(
            re.findall(r"--grain N +Grain of the film\. \[0 to 9 grains; default: 3; also\s+--film_grain", seen["help"])
        )
        == 1
    )
    assert seen["override"] == 6
    assert seen["file"] == [7, "file f.yaml line 1"]
    assert seen["mistake"] == "f.yaml, line 2: grain 12 is out of range. Give 0 to 9."
    assert "--grain=2" in seen["job"]
    assert "grain" in seen["described"]
    assert (seen["wire"], seen["told"]) == ({"grain": 2}, 2)
    assert seen["beyond"] == "session.set.grain: Input should be less than or equal to 5."
    (control,) = seen["page"]
    assert control["slider"] == {"min": 1, "max": 4, "step": 1}
    assert control["limits"] == {"min": 0, "max": 9, "step": 1}
    assert seen["docs"] == [
        "| `grain` (`film_grain`) | Grain of the film. | 0 to 9 grains | 3 | flag, file `output.grain`, job, "
        "live `grain` 1 to 5, page | file |"
    ]


def test_the_page_of_settings_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m app.config.settings_page"


# ------------------------------------------------------------------ what an entry says of itself


def accepts(name: str, value: float) -> bool:
    """Whether the reader takes a value, and a preset that has such a knob."""
    try:
        read = READERS[name](name, str(value))
        if name in KNOBS:
            large = {"local_attn_size": LARGEST_WINDOW} if name in ("sink_size", "num_frame_per_block") else {}
            large |= {"num_inference_steps": MOST_STEPS} if name == "cascade" else {}
            other = {"sink_size": 0, "num_frame_per_block": 1} if name == "local_attn_size" else {}
            if (name, value) == ("sink_size", LARGEST_WINDOW):
                return True  # which no window has room for beside a chunk
            apply_knobs(PRESETS["embedded"], {**large, **other, name: read})
    except (UsageMistake, KnobError):
        return False
    return True


@pytest.mark.parametrize("name", [name for name, entry in TABLE.items() if name in READERS and entry.bounds])
def test_the_range_that_is_told_is_the_range_that_is_taken(name: str) -> None:
    entry = TABLE[name]
    assert entry.bounds is not None
    least, most = entry.bounds
    assert accepts(name, most)
    assert accepts(name, least) is not entry.above
    assert not accepts(name, most + 1)
    assert not accepts(name, least - 1)


def test_what_holds_where_nobody_says_is_what_others_take() -> None:
    assert TABLE["transition_chunks"].says == str(SOFT_CHUNKS)
    assert TABLE["segment_chunks"].says == str(SEGMENT_CHUNKS)
    assert TABLE["output"].says == USUAL_FILE
    assert {name for name, entry in TABLE.items() if entry.usual == "the preset's"} == {*KNOBS, "model"}
    length = parse_length(TABLE["duration"].says.rpartition(" ")[2])
    assert (length.amount, length.unit) == (20, "s")


def test_what_a_setting_means_for_a_replay_is_what_a_record_holds() -> None:
    written = {name for name, entry in TABLE.items() if entry.replay in ("film", "file", "machine")}
    recorded = {*Config.model_fields, *Carried.model_fields, *KNOBS, "size", *get_args(BeginningKind)}
    recorded |= {"rotate" if name == "turn" else name for name in VideoRecord.model_fields}
    settings = {name for name, entry in TABLE.items() if entry.kind != "run"}
    assert written == recorded & settings - {"script"}
    assert {entry.replay for entry in TABLE.values()} == set(REPLAY)
    assert {name for name in LEFT_OUT if TABLE[name].replay != "run"} == set()


def test_a_job_a_live_film_and_the_page_take_only_what_there_is() -> None:
    fields = {entry.job for entry in TABLE.values() if entry.job}
    assert fields == VideoRequest.model_fields.keys() - {"script_kind", "name", "beginning"}
    for entry, wire in WIRED:
        least, most = entry.bounds or (0, 100)
        assert least <= wire.least < wire.most <= most, entry.name
        slider = entry.control.slider if entry.control is not None else None
        assert slider is None or wire.least <= slider[0] < slider[1] <= wire.most, entry.name
    assert all(entry.wire is not None for entry in TABLE.values() if entry.control is not None and entry.control.slider)
    assert all(isinstance(entry.reader, Whole) for entry in TABLE.values() if entry.parser_bounds)
    assert {entry.group for entry in TABLE.values()} == set(get_args(Group))


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("columns", [80, 120])
def test_help_is_a_screen_and_all_of_it_has_every_flag(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["render", "--help"]) == 0
    short = capsys.readouterr().out.partition("\n  Example:")[0]
    assert main(["render", "--seed", "1", "--help-all"]) == 0
    everything = capsys.readouterr().out
    assert short.count("\n") <= 34
    assert max(map(len, (short + everything).splitlines())) <= columns
    for name, entry in TABLE.items():
        if entry.kind == "video":
            continue  # whose names stand in the help of other flags
        shown = re.compile(rf"--(\[no_\])?{name}\b")
        assert bool(shown.search(everything)) is ("command line" in entry.places), name
        assert bool(re.search(rf"^  (-o, )?--(\[no_\])?{name}\b", short, re.MULTILINE)) is entry.first, name
    headings = re.findall(r"^([A-Z][a-z ]+):$", everything, re.MULTILINE)
    assert headings == [group for group in get_args(Group) if group not in ("Live", "Video")]
