"""`rivulet bench`: lists the benchmarks; each is a command of its own, made when it is asked for.

What is measured, what it takes and what the numbers mean is written in benchmarks/, beside the code that measures.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from app.config.readers import choose


class BenchGroup(TyperGroup):
    """The commands of the registry in benchmarks/__init__.py."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return their names, in the order of the registry."""
        from benchmarks import BENCHMARKS

        return list(BENCHMARKS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Build one of them."""
        from benchmarks.command import command_of

        return command_of(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the one that was typed.

        Raises:
            UsageMistake: there is none; the nearest is named.
        """
        name = choose(args[0], self.list_commands(ctx), "benchmark")
        return name, self.get_command(ctx, name), args[1:]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List them by subject, each with its sentence and its flags."""
        from benchmarks.command import listing

        for subject, rows in listing():
            with formatter.section(subject.capitalize()):
                formatter.write_dl(rows, col_max=14)


bench = typer.Typer(
    cls=BenchGroup,
    subcommand_metavar="NAME [FLAGS]",
    epilog="`rivulet bench NAME --help` explains its flags; every one takes --json FILE besides.",
)


@bench.callback(invoke_without_command=True)
def list_benchmarks(context: typer.Context) -> None:
    """Measure speed, cost, quality, the live server, or robustness: print a table and keep the numbers as JSON."""
    if context.invoked_subcommand is None:
        print(context.get_help())
