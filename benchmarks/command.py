"""The command of a benchmark: its fields become flags, its numbers a table and a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from inspect import Parameter, Signature, getdoc
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import typer.main

from app.errors import EXIT_FAILURE, EXIT_OK
from benchmarks import BENCHMARKS, numbers
from benchmarks.benchmark import Benchmark, Run

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Where the numbers go.", show_default="benchmarks/results, if there"),
]
"""What every benchmark takes beside its own flags."""


def command_of(name: str) -> Any:
    """The command `rivulet bench NAME`, as typer builds it from a function with these flags."""
    kind = BENCHMARKS[name]

    def command(*, json_file: Path | None, **flags: Any) -> int:
        return run(name, kind(**flags), json_file)

    hints = get_type_hints(kind, include_extras=True)
    own_first = sorted(fields(kind), key=lambda field: field.name not in kind.__annotations__)
    flags = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in own_first
    ]
    shared = Parameter("json_file", Parameter.KEYWORD_ONLY, default=None, annotation=JsonFile)
    command.__signature__ = Signature([*flags, shared])  # type: ignore[attr-defined]  # what inspect looks at first
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, help=getdoc(kind))(command)
    return typer.main.get_command(alone)


def run(name: str, benchmark: Benchmark, json_file: Path | None) -> int:
    """Measure, print the table and keep the numbers; returns the exit code."""
    from rich.console import Console

    from app.record.sidecar import library_versions, machine

    console = Console(highlight=False)
    file = None if benchmark.partial and json_file is None else numbers.result_file(name, json_file)
    keep = numbers.writer(file, {"versions": library_versions(), "machine": machine()})
    docs = numbers.CHECKOUT / "docs" if file is not None and json_file is None else None
    result = benchmark.measure(Run(console.print, keep, lambda: numbers.read_numbers(file), docs))
    console.print(benchmark.table(result))
    keep(result)
    if file is not None:
        console.print(f"Numbers in {file}.", soft_wrap=True)
    return EXIT_OK if result.get("passed", True) else EXIT_FAILURE


def listing() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Every subject, with its benchmarks: name and sentence, and on a line of its own the flags."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for name, kind in BENCHMARKS.items():
        of_subject = rows.setdefault(subject_of(kind), [])
        of_subject += [(name, sentence_of(kind)), ("", " ".join(flags_of(name)))]
    yield from rows.items()


def subject_of(kind: type[Benchmark]) -> str:
    """The folder that it lies in."""
    return kind.__module__.split(".")[-2]


def sentence_of(kind: type[Benchmark]) -> str:
    """What it measures, in one line."""
    return (getdoc(kind) or "").partition("\n")[0]


def flags_of(name: str) -> list[str]:
    """Its own flags, without what every one takes."""
    return [option.opts[0] for option in command_of(name).params if option.name != "json_file"]
