"""A live take or a film asked for again: as a script, at another quality, and over HTTP."""

from __future__ import annotations

import copy
import json
import random
import struct
import time
from collections.abc import Iterator
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from starlette.testclient import TestClient

from app.cli.main import main
from app.config.lengths import Rhythm
from app.config.settings import given_by_flags, given_by_overrides
from app.errors import EXIT_OK, UsageMistake
from app.jobs.job import VideoRequest, place
from app.loading.system import plain_system, system_of
from app.media.join import join, read_metadata
from app.media.mp4 import FilmWriter
from app.record import sidecar
from app.record.provenance import Provenance, film_tags, provenance_of_log, record_of_log
from app.record.session_log import parse_log
from app.record.sidecar import carried
from app.render.replay import changed_request, replay
from app.script.shot_list import parse_native
from app.script.timeline import resolve
from app.server.access import Access
from app.server.restore import LARGEST_UPLOAD, read_dropped, request_again, restored
from app.server.routes import make_app
from benchmarks.robust.fuzz_live import WIRE, a_film, drops, read_drop
from benchmarks.robust.mutation import is_told_well, run
from pipelines.presets import PRESETS
from tests import log_lines
from tests.app_doubles import Opener
from tests.live_doubles import SECRET, PaintedEngine

MODELS = ("embedded", "wan-1.3b")
EMBEDDED = Rhythm(3, 3)


def provenance_of(log: bytes) -> Provenance:
    return provenance_of_log(parse_log(log, "a take"), "a take")


def test_a_take_is_a_script_of_what_was_on_screen_and_when() -> None:
    origin = provenance_of(log_lines.a_log())
    shots = origin.script_for(EMBEDDED, 16).shots
    # On screen: 9 + 12 frames of the ball, 12 + 2 of the star, 24 of the cube, 24 of the mix; chunks begin at 9, 21 ...
    assert [(str(shot.at), shot.prompt) for shot in shots] == [
        ("0s", "a red ball"),
        ("1.3125s", "a blue star"),
        ("2.8125s", "a green cube"),
        ("4.3125s", (("a red ball", 0.75), ("a blue star", 0.25))),
    ]
    kinds = [None if shot.transition is None else (shot.transition.kind, shot.transition.chunks) for shot in shots]
    assert kinds == [None, ("soft", 2), ("cut", 0), ("keep", 0)]
    assert [dict(shot.parameters)["guidance_scale"] for shot in shots][-1] == 3.0
    assert (origin.frames, origin.seed, origin.kind) == (83, 7, "take")
    assert origin.settings["denoising_step_list"]
    assert "Settings changed" in origin.notes[0]


def test_prompts_shorter_than_a_chunk_give_way_and_blends_shrink() -> None:
    lines = [log_lines.header(), log_lines.steered(0, "a"), log_lines.made(0), log_lines.shown(0, 3)]
    lines += [log_lines.steered(1, "b", "soft", 9), log_lines.made(1), log_lines.shown(1, 2)]
    lines += [log_lines.steered(2, "c", "cut"), log_lines.made(2), log_lines.made(3)]
    lines += [log_lines.steered(4, "d", "soft", 9), log_lines.made(4)]
    origin = provenance_of(log_lines.as_bytes(lines))
    script = origin.script_for(EMBEDDED, 16)
    assert [shot.prompt for shot in script.shots] == ["a", "c", "d"]
    assert script.shots[2].transition is not None
    assert script.shots[2].transition.chunks == 1
    place(
        VideoRequest(script=request_again(provenance_of(log_lines.as_bytes(lines)), EMPTY, models=MODELS).script),
        models=MODELS,
    )


EMPTY = VideoRequest.model_validate({})


@pytest.mark.parametrize("rhythm", [Rhythm(3, 3), Rhythm(1, 1), Rhythm(8, 8), Rhythm(1, 5), Rhythm(40, 40)])
@pytest.mark.parametrize("fps", [8.0, 16.0, 23.976])
def test_a_take_fits_chunks_of_any_length(rhythm: Rhythm, fps: float) -> None:
    origin = provenance_of(log_lines.a_log())
    script = origin.script_for(rhythm, fps)
    timeline = resolve(script, length=None, fps=fps, rhythm=rhythm)  # refuses two shots in a chunk, or long blends
    assert timeline.frames / fps == pytest.approx(83 / 16, abs=0.1)
    lost = 4 - len(timeline.shots)
    assert lost == {1: 0, 3: 0, 5: 0, 8: 1, 40: 3}[rhythm.chunk] or fps == 8
    assert bool(script.notes) == bool(lost)
    for shot in timeline.shots[1:]:
        asked = next(each.at for each in origin.timed.shots if each.prompt == shot.prompt)
        assert asked is not None
        assert -0.1 < shot.actual.second - asked.amount < 4 * rhythm.chunk / fps


def asked_of(origin: Provenance, *words: str, **flags: Any) -> Any:
    changes = [layer for layer in (given_by_flags(flags), given_by_overrides(words)) if layer]
    return changed_request(origin, changes, Path("again.mp4"), overwrite=False)


def test_what_is_not_changed_stays_and_a_preset_brings_its_own_settings() -> None:
    origin = provenance_of(log_lines.a_log(untrained=True))
    bigger = asked_of(origin, size="192x96")
    assert (bigger.engine.height, bigger.engine.width, bigger.engine.preset.name) == (96, 192, "embedded")
    assert len(bigger.engine.preset.schedule.denoising_step_list) == 3, "the steps that were set live"
    assert (bigger.seed, bigger.engine.model, bigger.engine.untrained) == (7, "embedded", True)
    other = asked_of(origin, preset="longlive")
    assert (other.engine.preset.name, other.engine.model) == ("longlive", "embedded")
    assert other.engine.preset.schedule.denoising_step_list == (1000.0, 750.0, 500.0, 250.0)
    assert (other.engine.height, other.engine.width) == (96, 96)
    model = asked_of(origin, model="wan-1.3b")
    assert (model.engine.model, model.engine.height) == ("wan-1.3b", None), "a model has its own size"
    knob = asked_of(origin, "sink_size=1", "steps=2", "crf=30")
    assert (knob.engine.preset.cache.sink, knob.crf) == (1, 30)  # type: ignore[attr-defined]  # of the embedded preset
    assert len(knob.engine.preset.schedule.denoising_step_list) == 2


def again(path: Path, output: Path, *words: str, check: bool = False, **flags: Any) -> tuple[int, str, Opener]:
    out, opener = StringIO(), Opener()
    code = replay(
        path,
        output,
        check=check,
        overwrite=True,
        console=Console(file=out, width=200),
        changes=[layer for layer in (given_by_flags(flags), given_by_overrides(words)) if layer],
        opener=opener,
    )
    return code, out.getvalue(), opener


def test_a_take_is_rendered_at_another_size_and_says_that_its_frames_are_others(tmp_path: Path) -> None:
    log = log_lines.save(tmp_path / "s", log_lines.a_log())
    code, said, opener = again(log, tmp_path / "big.mp4", size="192x192")
    assert code == EXIT_OK
    assert "its frames are others" in said
    assert [controls.prompt for controls in opener.streams[0].asked] == [
        *["a red ball"] * 2,
        *["a blue star"] * 2,
        *["a green cube"] * 2,
        *[(("a red ball", 0.75), ("a blue star", 0.25))] * 2,
    ]
    assert opener.streams[0].seed == 7
    assert sidecar.read(tmp_path / "big.json").film.frames == 83


def test_there_is_nothing_to_check_when_something_is_changed(tmp_path: Path) -> None:
    log = log_lines.save(tmp_path / "s", log_lines.a_log())
    with pytest.raises(UsageMistake, match=r"^Another preset makes other frames.*Leave out --check") as refused:
        again(log, tmp_path / "x.mp4", check=True, preset="longlive")
    assert str(refused.value).count(".") == 2, "one sentence and one action"


def test_the_command_line_takes_settings_as_render_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(log_lines.save(tmp_path / "s", log_lines.a_log()))
    assert main(["replay", log, "-o", str(tmp_path / "x.mp4"), "--check", "--steps", "4"]) == 2
    assert "Another num_inference_steps makes other frames" in capsys.readouterr().err
    assert main(["replay", log, "sinc_size=3"]) == 2
    assert "sink_size" in capsys.readouterr().err
    assert main(["replay", log, "--preset", "longlove"]) == 2
    assert "longlive" in capsys.readouterr().err


def film_of_take(tmp_path: Path) -> Path:
    """A recording: any pictures, and what its log says."""
    log = log_lines.save(tmp_path / "s", log_lines.a_log())
    part, film = tmp_path / "x.part.mp4", tmp_path / "recording.mp4"
    writer = FilmWriter(part, height=32, width=32, fps=Fraction(16), scale=1)
    writer.write(np.zeros((4, 32, 32, 3), np.uint8))
    writer.close()
    join([part], film, metadata=film_tags(log))
    return film


def test_a_recording_carries_its_take_and_is_rendered_from_it(tmp_path: Path) -> None:
    film = film_of_take(tmp_path)
    assert read_metadata(film)["comment"] == "Rivulet live, preset embedded, seed 7"
    code, _, opener = again(film, tmp_path / "again.mp4")
    assert code == EXIT_OK
    assert opener.streams[0].asked[2].prompt == "a blue star"
    assert again(film, tmp_path / "again.mp4", "crf=40")[0] == EXIT_OK
    with pytest.raises(UsageMistake, match=r"Give the session\.jsonl"):
        again(film, tmp_path / "again.mp4", check=True)


def test_a_log_that_cannot_be_read_costs_no_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert film_tags(log_lines.save(tmp_path, b"no log\n")) == {}
    assert "without its settings" in caplog.text


# ------------------------------------------------------------------ over HTTP


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    engine: Any = PaintedEngine(folder=tmp_path)
    with TestClient(make_app(engine, secret=SECRET, page=False), base_url="http://localhost") as client:
        yield client


TOKEN = Access(SECRET).token("film1")


def test_the_take_of_a_session_is_told_to_who_has_its_token(client: TestClient, tmp_path: Path) -> None:
    log_lines.save(tmp_path / "film1", log_lines.a_log())
    for token in (TOKEN, Access(SECRET).token("film1", view=True)):
        told = client.get("/v1/sessions/film1/take", params={"token": token}).json()
        assert (told["kind"], told["frames"], told["request"]["seed"]) == ("take", 83, 7)
        assert [shot["at"] for shot in told["shots"]] == [0.0, 1.3125, 2.8125, 4.3125]
        assert told["shots"][1]["transition"] == {"kind": "soft", "chunks": 2}
        assert len(parse_native(told["request"]["script"], "x").shots) == 4
        assert told["request"]["size"] == "96x96"
        assert told["request"]["model"] == "embedded"
        place(VideoRequest.model_validate(told["request"]), models=MODELS)  # can be rendered as it is
    for path, token, status in (
        ("film1", "x", 403),
        ("film2", TOKEN, 403),
        ("film2", Access(SECRET).token("film2"), 404),
        ("..%2Ffilm1", TOKEN, 404),
        ("a.b", TOKEN, 422),
    ):
        answer = client.get(f"/v1/sessions/{path}/take", params={"token": token})
        assert answer.status_code == status, path


def test_a_take_is_told_as_it_is_while_the_film_plays(client: TestClient, tmp_path: Path) -> None:
    log = log_lines.save(tmp_path / "film1", log_lines.as_bytes([log_lines.header(), log_lines.steered(0, "a")]))
    answer = client.get("/v1/sessions/film1/take", params={"token": TOKEN})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 400)
    assert "nothing was shown" in answer.json()["error"]["message"]
    log.write_bytes(log.read_bytes() + log_lines.as_bytes([log_lines.made(0)]) + b'{"event":"chu')
    assert client.get("/v1/sessions/film1/take", params={"token": TOKEN}).json()["frames"] == 9


def test_a_film_a_log_and_a_record_dropped_on_the_page_say_the_same(client: TestClient, tmp_path: Path) -> None:
    film, log = film_of_take(tmp_path), log_lines.a_log()
    assert again(film, tmp_path / "render.mp4")[0] == EXIT_OK
    files = sorted(tmp_path.rglob("*"))
    dropped = {
        "recording": film.read_bytes(),
        "log": log,
        "render": (tmp_path / "render.mp4").read_bytes(),
        "its .json": (tmp_path / "render.json").read_bytes(),
        "its beginning": (tmp_path / "render.mp4").read_bytes()[:20_000],
    }
    answers = {name: client.post("/v1/restore", content=data) for name, data in dropped.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(dropped, 200)
    told = {name: answer.json() for name, answer in answers.items()}
    for name in dropped:
        assert told[name]["shots"] == told["log"]["shots"], name
        assert told[name]["request"]["seed"] == 7
        assert told[name]["request"]["settings"] == told["log"]["request"]["settings"]
        assert told[name]["kind"] == ("take" if name in ("recording", "log") else "film")
    assert sorted(tmp_path.rglob("*")) == files, "nothing is kept on the disk"


def test_a_model_or_preset_that_is_not_here_is_left_open_and_said(client: TestClient) -> None:
    lines = log_lines.a_log(model={"name": "/home/ann/mine", "sha256": ""}, preset="next-year")
    told = client.post("/v1/restore", content=lines).json()
    assert told["request"]["model"] is None
    assert told["request"]["preset"] is None
    assert any("no preset 'next-year'" in note for note in told["notes"])
    assert any("no model '/home/ann/mine'" in note for note in told["notes"])


# ------------------------------------------------------------------ hostile files


def refusal_of(data: bytes) -> str:
    """The sentence that a file is refused with, and nothing else is raised.

    It costs a second at most here; what grows faster than its file would cost minutes, on any machine.
    """
    begun = time.thread_time()
    with pytest.raises(UsageMistake) as refused:
        restored(read_dropped(data), models=MODELS)
    assert time.thread_time() - begun < 10
    assert is_told_well(str(refused.value)), refused.value
    return str(refused.value)


def box(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def film_saying(told: str) -> bytes:
    """An MP4 that carries this text where ours carry their settings."""
    return a_film().partition(b"moov")[0][:-4] + box(b"moov", _tags(told.encode())) + box(b"mdat", bytes(64))


def _tags(told: bytes) -> bytes:
    keys = box(b"keys", bytes(4) + struct.pack(">I", 1) + box(b"mdta", b"rivulet"))
    value = box(struct.pack(">I", 1), box(b"data", struct.pack(">II", 1, 0) + told))
    return box(b"udta", box(b"meta", bytes(4) + keys + box(b"ilst", value)))


FTYP = box(b"ftyp", b"isom")
HOSTILE = {
    "nothing": (b"", "neither a film nor a log"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither a film nor a log"),
    "a page": (b"<html><script>alert(1)</script>", "neither a film nor a log"),
    "other json": (b'{"hello": 1}', "damaged or from another version"),
    "deep json": (b'{"a":' * 100_000, "damaged"),
    "a list": (b"[" * 100_000, "neither a film nor a log"),
    "only a head": (FTYP, "index of this film is not at its beginning"),
    "index behind the picture": (FTYP + box(b"mdat", bytes(99)) + b"\x7f\xff\xff\xffmoov", "not at its beginning"),
    "cut in the index": (a_film()[:300], "not at its beginning"),
    "no settings": (FTYP + box(b"moov", box(b"mvhd", bytes(100))), "carries no settings"),
    "a million empty boxes": (FTYP + box(b"moov", box(b"free") * 1_000_000), "damaged"),
    "boxes of no length": (FTYP + box(b"moov", b"\0\0\0\3udta" * 9), "damaged"),
    "a box of 2**63": (FTYP + b"\0\0\0\1moov" + b"\x7f" + b"\xff" * 7, "not at its beginning"),
    "settings of another program": (film_saying("hello"), "damaged or from another version"),
    "settings of another kind": (film_saying('{"format": 3}'), "damaged or from another version"),
    "a log in a film's clothes": (FTYP + log_lines.a_log(), "not at its beginning"),
    "a log of branches alone": (
        log_lines.as_bytes([log_lines.header()]) + b'{"event":"branch","branch":1,"parent":0,"chunk":0}\n' * 50_000,
        "nothing was shown",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence_and_soon(name: str) -> None:
    data, says = HOSTILE[name]
    assert says in refusal_of(data)


def record_with(**changes: Any) -> str:
    """What a film carries, with something of its config changed."""
    record = json.loads(carried(record_of_log(parse_log(log_lines.a_log(), "x"), "x")))
    record["config"] |= changes
    return json.dumps(record)


@pytest.mark.parametrize(
    "changes",
    [
        {"script": "shots: [{prompt: x}]\n" + "# " + "x" * 10_000_000},
        {"script": "version: 1\nshots:\n" + "  - prompt: x\n" * 700_000},
        {"script": "&a [*a, *a]"},
        {"frames": 10**30},
        {"frames": -1},
        {"fps": "1e999999999"},
        {"fps": "1/0"},
        {"height": 10**9},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_settings_that_cannot_be_are_refused_in_a_sentence_and_soon(changes: dict[str, Any]) -> None:
    refusal_of(film_saying(record_with(**changes)))


def test_names_in_a_log_are_settings_and_never_paths_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("shots: [{prompt: a secret}]")
    knobs = [["script", 1.0], ["config", 1.0], ["num_inference_steps", 4.0]]
    lines = [log_lines.header(), log_lines.steered(0, "a", knobs=knobs), log_lines.made(0)]
    assert "no setting" in refusal_of(log_lines.as_bytes(lines))
    model = json.loads(restored_text(film_saying(record_with())).replace("embedded", str(tmp_path)))
    assert str(tmp_path) in json.dumps(model)  # the text is only text
    odd = {"script": str(secret), "output": "/tmp/x", "num_inference_steps": 4}
    told = restored(read_dropped(film_saying(record_with(knobs=odd))), models=MODELS)
    assert told["request"]["settings"].keys() <= {"fps", "num_inference_steps"}
    assert "secret" not in json.dumps(told)


def restored_text(data: bytes) -> str:
    return json.dumps(restored(read_dropped(data), models=MODELS))


ODD: list[Any] = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 2**70, "", "x" * 2000, "\x00\u202e", "1/0"]
ODD += ["1e999999", [], {}, [[[]]], [["a", float("nan")]], {"a": {}}, "../../etc/passwd", "-1", 0.5, [0, -5]]


def places_of(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places_of(value, (*path, key))


def test_odd_values_anywhere_are_read_or_refused_and_none_takes_long() -> None:
    draw = random.Random(3)
    log = [json.loads(line) for line in log_lines.a_log().splitlines()]
    record = json.loads(record_with())
    read = 0
    for number in range(600):
        tree = copy.deepcopy(log if number % 2 else record)
        *path, last = draw.choice(list(places_of(tree)))
        target = tree
        for key in path:
            target = target[key]
        target[last] = draw.choice(ODD)
        data = log_lines.as_bytes(tree) if number % 2 else film_saying(json.dumps(tree))
        begun = time.thread_time()
        try:
            read_drop(data, "")  # refused, or an answer that is JSON
            read += 1
        except UsageMistake as mistake:
            told = str(mistake)
            assert is_told_well(told), (told, path, last)
        assert time.thread_time() - begun < 2, (path, last)
    assert read > 30


def test_what_is_sent_is_bounded_and_refused_in_the_usual_envelope(client: TestClient) -> None:
    answer = client.post("/v1/restore", content=FTYP + bytes(LARGEST_UPLOAD))
    assert answer.status_code == 413
    assert "Send the beginning" in answer.json()["error"]["message"]
    for data, says in HOSTILE.values():
        answer = client.post("/v1/restore", content=data)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]
        assert set(answer.json()["error"]) == {"message", "type", "code"}


def test_mutated_messages_and_files_are_read_or_refused() -> None:
    for rows in (run(700, targets=WIRE), run(300, targets=drops())):
        assert [row["others"] for row in rows] == [[]] * len(rows)
        assert all(row["accepted"] and row["refused"] and row["slowest_s"] < 1 for row in rows)


def test_a_measure_that_finds_nothing_would_not_be_one() -> None:
    def careless(data: bytes, name: str) -> None:
        json.loads(data)

    (row,) = run(50, targets={"x": (WIRE["wire do"][0], careless)})
    assert row["other_exceptions"] > 10


def test_records_from_before_a_setting_went_are_still_those_of_their_preset() -> None:
    """Every film named `settle`, which no preset used; one that did use it would be another film."""
    preset = PRESETS["embedded"]
    now = system_of(preset)
    assert plain_system(now) == system_of(preset)
    assert plain_system({**now, "cache": {**now["cache"], "settle": None}}) == system_of(preset)
    for other in ({**now["cache"], "settle": 4}, {**now["cache"], "window": 9}, {}, None):
        assert plain_system({**now, "cache": other}) != system_of(preset)
