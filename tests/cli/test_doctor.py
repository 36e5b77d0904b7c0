"""The doctor tells a sound machine from a broken one, and its self-test the recorded film from any other."""

from __future__ import annotations

import builtins
import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

from app.cli import checks as doctor
from app.cli import self_test
from app.cli.checks import Check
from app.cli.main import main
from app.cli.self_test import TOLERANCE, Hashes, Rendered, compare, record
from app.errors import UsageMistake
from tests.app_doubles import save_tiny_model

ROOT = Path(__file__).resolve().parents[2]


def rendered(*, off: int = 0, **hashes: Any) -> Rendered:
    """A film of 21 small frames; `off` is added to one value."""
    frames = np.random.default_rng(0).integers(20, 200, (21, 16, 16, 3), np.uint8)
    frames[20, 5, 6, 1] += off
    known: dict[str, Any] = {"cpu": "this", "torch": "2", "model": "weights", "chunks": ("a", "b")}
    return Rendered(Hashes(**{**known, **hashes}), frames, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record(rendered(), tmp_path)
    return tmp_path


# ------------------------------------------------------------------ the self-test


@pytest.mark.parametrize(
    ("film", "verdict", "says"),
    [
        (rendered(), "same", "bit for bit"),
        (rendered(chunks=("a", "c")), "wrong", "hashes differ"),
        (rendered(cpu="other", chunks=("x", "y"), off=TOLERANCE), "close", f"up to {TOLERANCE} of 255, tolerance"),
        (rendered(torch="3", chunks=("x", "y"), off=TOLERANCE + 1), "wrong", f"up to {TOLERANCE + 1} of 255"),
        (rendered(model="others"), "unknown", "other weights"),
        (replace(rendered(), frames=np.full((21, 16, 16, 3), 90, np.uint8)), "wrong", "single colour"),
    ],
)
def test_a_film_is_held_against_the_record(folder: Path, film: Rendered, verdict: str, says: str) -> None:
    found = compare(film, folder)
    assert found.verdict == verdict
    assert says in found.text


def test_without_a_record_for_these_weights_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    check = doctor.film_check(rendered, tmp_path)
    assert (check.state, check.fix) == ("note", "rivulet doctor --record")
    record(rendered(model="older"), tmp_path)
    check = doctor.film_check(rendered, tmp_path)
    assert (check.state, check.fix) == ("note", "rivulet doctor --record")


def test_a_wrong_film_makes_the_machine_unfit(folder: Path) -> None:
    assert doctor.film_check(rendered, folder).state == "ok"
    broken = doctor.film_check(lambda: rendered(chunks=("a", "c")), folder)
    assert broken.state == "failed"
    assert not doctor.healthy([Check("python", "ok", ""), broken])


def test_recording_keeps_other_machines_of_the_same_weights_and_drops_other_weights(folder: Path) -> None:
    record(rendered(cpu="second"), folder)
    record(rendered(chunks=("c", "d")), folder)  # the first machine again
    assert compare(rendered(cpu="second"), folder).verdict == "same"
    assert compare(rendered(), folder).verdict == "wrong"
    record(rendered(model="newer"), folder)
    book = self_test.read(folder)
    assert book is not None
    assert [one.model for one in book.records] == ["newer"]
    assert sorted(path.name for path in folder.iterdir()) == ["doctor_frames.png", "doctor_hashes.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"prompt": 1}', b"\xff\x00"])
def test_a_damaged_record_is_told_and_can_be_written_again(folder: Path, damage: bytes) -> None:
    self_test.book_path(folder).write_bytes(damage)
    with pytest.raises(UsageMistake, match=r"doctor_hashes.json: .*rivulet doctor --record"):
        compare(rendered(), folder)
    record(rendered(), folder)
    assert compare(rendered(), folder).verdict == "same"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"no picture")])
def test_damaged_pictures_are_told(folder: Path, spoil: Callable[[Path], Any]) -> None:
    spoil(self_test.pictures_path(folder))
    with pytest.raises(UsageMistake, match=r"doctor_frames.png is missing or damaged. .*--record"):
        compare(rendered(cpu="other"), folder)


def test_a_real_model_renders_the_same_film_twice(tmp_path: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    model = str(save_tiny_model(tmp_path / "model"))
    first = self_test.render(model)
    assert torch.get_num_threads() == threads
    assert first.frames.shape == (21, 32, 32, 3)
    assert max(self_test.PICTURES) < len(first.frames)
    record(first, tmp_path)
    assert compare(self_test.render(model), tmp_path).verdict == "same"
    elsewhere = replace(first, hashes=first.hashes.model_copy(update={"cpu": "another"}))
    assert compare(elsewhere, tmp_path).largest == 0


def test_what_ships_can_be_read_and_is_small() -> None:
    book = self_test.read(self_test.PACKAGE)
    assert book is not None
    assert {one.model for one in book.records} == {book.model}
    assert self_test.pictures_path(self_test.PACKAGE).stat().st_size <= 120_000
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["app.cli"]
    shipped = {path.name for pattern in data for path in self_test.PACKAGE.glob(pattern)}
    assert {"doctor_hashes.json", "doctor_frames.png"} <= shipped


# ------------------------------------------------------------------ the machine


def good_film() -> Check:
    return Check("self-test", "ok", "not looked at")


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_sound_machine_passes_and_what_is_missing_has_its_command() -> None:
    heard: list[str] = []
    checks = doctor.examine(film=good_film, tell=heard.append)
    found = by_name(checks)
    assert doctor.healthy(checks), [check for check in checks if check.state == "failed"]
    assert found["attention native"].state == found["video"].state == found["model embedded"].state == "ok"
    assert "H.264 and AAC" in found["video"].detail
    for name in ("attention xformers", "attention flash", "attention sage"):
        if "not installed" in found[name].detail:
            assert "-m pip install" in found[name].fix
    assert heard == list(dict.fromkeys(heard))
    assert heard[-1] == "self-test"


def test_a_broken_part_is_one_line_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import av
    import psutil

    monkeypatch.setattr(av, "codecs_available", {"aac"})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8, total=10**9))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))  # type: ignore[misc]
    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "no-such-package"))
    checks = doctor.examine(film=good_film)
    found = by_name(checks)
    failed = {name for name, check in found.items() if check.state == "failed"}
    assert failed == {"packages", "video", "memory", "disk", "disk, temporary"}
    assert all(found[name].fix for name in failed)
    assert found["packages"].fix.endswith("-m pip install no-such-package")
    assert "no libx264" in found["video"].detail
    assert not doctor.healthy(checks)


def test_a_package_that_cannot_be_imported_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    found = by_name(doctor.examine(film=good_film))
    assert found["video"].state == "failed"
    assert found["video"].detail == "av cannot be imported"
    assert "-m pip install" in found["video"].fix
    assert found["self-test"].state == "ok"


def test_the_packages_looked_for_are_those_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(doctor.NEEDED) == {Requirement(line).name for line in project["dependencies"]}
    for extra, (names, _) in doctor.EXTRAS.items():
        assert set(names) == {Requirement(line).name for line in project["optional-dependencies"][extra]}


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("failed", 1)])
def test_the_command_prints_for_people_and_programs_and_its_code_says_whether_films_can_be_made(
    state: doctor.State, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [
        Check("python", "ok", "3"),
        Check("video", state, "a [bold] word", "" if state == "ok" else "get it " * 30),
    ]
    monkeypatch.setattr(doctor, "examine", lambda **_: checks)  # type: ignore[misc]
    assert main(["doctor"]) == code
    printed = capsys.readouterr().out
    assert "a [bold] word" in printed
    assert ("get it " * 30).strip() in printed or state == "ok"
    assert printed.rstrip().endswith("Films can be made." if code == 0 else "Films cannot be made yet.")
    assert main(["doctor", "--json"]) == code
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is (code == 0)
    assert [check["state"] for check in data["checks"]] == ["ok", state]
    assert "torch" in data["versions"]


def test_one_command_records_the_film_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(self_test, "render", rendered)
    monkeypatch.setattr(self_test, "record", lambda film: record(film, tmp_path))  # type: ignore[misc]
    assert main(["doctor", "--record"]) == 0
    assert capsys.readouterr().out.count("Written: ") == 2
    assert compare(rendered(), tmp_path).verdict == "same"
