"""Films that were killed, and what they would have been."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.render.test_render import at, film_request, run
from tests.render.test_resume import LENGTH, killed_films, whole_film


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a kill before chunk 11 of 13 left: segments begin at 3, 6 and 9, the last two have snapshots."""
    return killed_films(tmp_path_factory.mktemp("killed") / "film")[11]


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of another film."""
    folder = tmp_path_factory.mktemp("other") / "film"
    folder.mkdir()
    left = folder.with_name("left")

    def copy() -> None:
        shutil.copytree(folder, left)

    run(film_request(folder, "a green ring", "a pink heart", duration=LENGTH, seed=9), at(10, copy))
    return left


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return whole_film(tmp_path_factory.mktemp("whole") / "film")


@pytest.fixture
def folder(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "film"))
