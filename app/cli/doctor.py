"""The flags of `rivulet doctor` and how its report looks; what is looked at is in app/cli/checks.py."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import EXIT_FAILURE, EXIT_OK, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from app.cli.checks import Check

EPILOG = "Exit codes: 0 films can be made, 1 something they need does not work."


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    record: Annotated[
        bool,
        typer.Option("--record", help="Make what this machine renders the reference, after a change of the weights."),
    ] = False,
) -> int:
    """Look at this machine: device, versions, codecs, disk, and two chunks of film against the record."""
    from rich.console import Console

    if record:
        from app.cli import self_test

        for path in self_test.record(self_test.render()):
            print(f"Written: {path} ({path.stat().st_size} bytes)")
        return EXIT_OK
    from app.cli import checks as doctor

    with Console(stderr=True).status("Looking") as status:
        checks = doctor.examine(tell=lambda name: status.update(f"Looking: {name}"))
    well = doctor.healthy(checks)
    if as_json:
        print(json.dumps(report(checks, well), indent=2, ensure_ascii=False))
    else:
        show(checks, well, Console(highlight=False, markup=False))
    return EXIT_OK if well else EXIT_FAILURE


def report(checks: "Sequence[Check]", well: bool) -> dict[str, object]:
    """Return the report as plain data."""
    from dataclasses import asdict

    from app.record.sidecar import library_versions, machine

    return {
        "ok": well,
        "checks": [asdict(check) for check in checks],
        "versions": library_versions(),
        "machine": machine(),
    }


def show(checks: "Sequence[Check]", well: bool, console: "Console") -> None:
    """Print the table, then the commands that get what is missing, a line each so that they can be copied."""
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "note": "yellow", "failed": "bold red"}
    rows = Table(show_header=False, box=None, pad_edge=False)
    for check in checks:
        rows.add_row(check.name, Text(check.state, style=styles[check.state]), printable(check.detail))
    console.print(rows)
    for state, title in (("failed", "To put right:"), ("note", "Optional:")):
        cures = [check for check in checks if check.state == state and check.fix]
        if cures:
            console.print(f"\n{title}")
        for check in cures:
            console.print(f"  {check.name}: {printable(check.fix)}", soft_wrap=True)
    console.print("\nFilms can be made." if well else "\nFilms cannot be made yet.")
