"""An installed Rivulet is the whole Rivulet: its command, its packages, and the model that ships."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]


@pytest.mark.parametrize(("script", "target"), PROJECT["project"]["scripts"].items())
def test_every_console_script_points_at_something_callable(script: str, target: str) -> None:
    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name)), script


def test_help_of_the_program_and_of_every_command_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from app.cli.main import app, main

    commands = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a private class
    assert {"render", "presets", "bench"} <= set(commands)
    for arguments in ([], *([command] for command in commands)):
        assert main([*arguments, "--help"]) == 0
        assert "--help" in capsys.readouterr().out


def test_the_package_list_is_the_tree() -> None:
    folders = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for path in ROOT.rglob("__init__.py")
        if not path.relative_to(ROOT).parts[0].startswith((".", "build", "contrib", "tests", "outputs"))
    }
    assert set(PACKAGES) == folders


def test_a_built_wheel_holds_every_module_and_the_embedded_model(tmp_path: Path) -> None:
    for entry in {package.split(".")[0] for package in PACKAGES}:
        shutil.copytree(ROOT / entry, tmp_path / entry, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    build = "from setuptools import setup; setup()"
    done = subprocess.run(
        [sys.executable, "-c", build, "-q", "build", "--build-base", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    built = {
        str(path.relative_to(tmp_path / "out/lib")) for path in (tmp_path / "out/lib").rglob("*") if path.is_file()
    }
    wanted = {
        str(p.relative_to(tmp_path)) for top in tmp_path.iterdir() if top.name != "out" for p in top.rglob("*.py")
    }
    embedded = {str(p.relative_to(ROOT)) for p in (ROOT / "weights" / "embedded").rglob("*") if p.is_file()}
    page = {str(p.relative_to(ROOT)) for p in (ROOT / "app" / "server" / "static").iterdir() if p.is_file()}
    assert len(wanted) > 20
    assert wanted <= built
    assert {Path(name).suffix for name in page} >= {".js", ".css"}
    assert page <= built
    assert any(name.endswith(".safetensors") for name in embedded), "weights/embedded holds the model that ships"
    assert embedded <= built


def test_the_installed_libraries_are_in_the_ranges_that_the_project_asks_for() -> None:
    from importlib.metadata import version

    extras = PROJECT["project"]["optional-dependencies"]
    for line in (*PROJECT["project"]["dependencies"], *extras["web"], *extras["dev"]):
        requirement = Requirement(line)
        if requirement.name == "rivulet":  # its own extras
            continue
        installed = Version(version(requirement.name))
        assert requirement.specifier.contains(installed.base_version), f"{line}, installed {installed}"


def test_every_library_asked_for_has_a_tested_version_in_its_range_but_torch() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    tested = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    assert len(tested) == len(pins)
    assert "torch" not in tested  # a local CPU wheel is taken
    extras = PROJECT["project"]["optional-dependencies"]
    for line in (*PROJECT["project"]["dependencies"], *extras["web"], *extras["text"], *extras["lora"], *extras["dev"]):
        requirement = Requirement(line)
        if requirement.name in ("torch", "rivulet"):
            continue
        (pin,) = tested[canonicalize_name(requirement.name)]
        assert pin.operator == "==", line
        assert requirement.specifier.contains(pin.version), f"{line}, constraints.txt {pin}"


def test_nothing_here_can_be_uploaded_to_an_index_by_mistake() -> None:
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"": "."}
