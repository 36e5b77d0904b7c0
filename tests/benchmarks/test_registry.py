"""`rivulet bench`: a benchmark is an entry of the registry, and its flags, help and list follow from its fields."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from rich.table import Table

import benchmarks
from app.cli.main import main
from app.errors import UsageMistake
from benchmarks import BENCHMARKS, numbers
from benchmarks.benchmark import Benchmark, Run, chosen_parts, parts_flag
from benchmarks.command import command_of, flags_of, run, sentence_of, subject_of

PARTS = ("first", "second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting(Benchmark):
    """Counts to a number.

    Not far.
    """

    to: Annotated[int, typer.Option("--to", min=1, max=9, help="The number.")] = 3
    only: Annotated[str | None, parts_flag(PARTS)] = None
    loud: Annotated[bool, typer.Option("--loud", help="For everybody.")] = False

    @property
    def partial(self) -> bool:
        return self.only is not None

    def measure(self, run: Run) -> dict[str, Any]:
        run.report(f"before: {run.known()}")
        run.keep({"so far": 1})
        return {"to": self.to, "loud": self.loud, "parts": chosen_parts(self.only, PARTS), "passed": self.to < 5}

    @staticmethod
    def table(result: dict[str, Any]) -> Table:
        return Table(f"counted to {result['to']}")


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmarks.BENCHMARKS, "counting", Counting)


@pytest.mark.usefixtures("counting")
def test_an_entry_of_the_registry_is_listed_and_has_its_own_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["bench"], ["bench", "--help"]):
        assert main(words) == 0
        listed = " ".join(capsys.readouterr().out.split())
        assert "counting Counts to a number. --to --only --loud" in listed
    assert main(["bench", "counting", "--help"]) == 0
    helped = " ".join(capsys.readouterr().out.split())
    assert "Usage: rivulet bench counting" in helped
    assert "Not far." in helped
    assert all(words in helped for words in ("The number. [default: 3; 1<=x<=9]", "Of first, second.", "--json FILE"))
    file = tmp_path / "x.json"
    assert main(["bench", "counting", "--to", "4", "--loud", "--json", str(file)]) == 0
    kept = json.loads(file.read_text())
    assert (kept["to"], kept["loud"], kept["parts"]) == (4, True, ["first", "second"])
    assert {"versions", "machine"} <= kept.keys()
    assert "counted to 4" in capsys.readouterr().out
    assert main(["bench", "counting", "--to", "6", "--json", str(file)]) == 1  # not passed
    assert "before: {'to': 4" in capsys.readouterr().out


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["countin"], "did you mean counting?"),
        (["counting", "--only", "third"], "choose from first, second"),
        (["counting", "--only", ","], "nothing to measure"),
        (["counting", "--seconds", "3"], "rivulet bench counting has no flag --seconds"),
        (["counting", "--to", "10"], "See `rivulet bench counting --help`"),
        (["startup", "--threads", "1"], "rivulet bench startup has no flag --threads"),
        (["--threads", "1"], "rivulet bench has no flag --threads"),
    ],
)
def test_what_is_no_benchmark_and_no_flag_of_it_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_part_is_not_kept_unless_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(numbers, "CHECKOUT", tmp_path)
    (tmp_path / ".git").mkdir()
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    assert run("counting", Counting(only="second"), None) == 0
    assert list(results.iterdir()) == []
    assert run("counting", Counting(), None) == 0
    assert json.loads((results / "counting.json").read_text())["parts"] == ["first", "second"]
    assert "Numbers in" in capsys.readouterr().out


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_it_measures_and_names_its_flags_after_its_fields(name: str) -> None:
    kind = BENCHMARKS[name]
    assert kind.__module__.startswith("benchmarks.")
    assert subject_of(kind) in ("speed", "quality", "live", "robust")
    sentence = sentence_of(kind)
    assert sentence.endswith(".")
    assert len(sentence) <= 110
    assert set(flags_of(name)) == {f"--{field.name}" for field in fields(kind)}
    kind()  # every flag has a default
    helped = [option for option in command_of(name).params if not option.help]
    assert not helped


def test_no_part_twice_and_in_their_own_order() -> None:
    assert chosen_parts("second, first,second", PARTS) == PARTS
    with pytest.raises(UsageMistake):
        chosen_parts("firs", PARTS)
