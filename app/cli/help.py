"""Help of `rivulet render`: the flags most films need on one screen, all of them with `--help_all`, by purpose."""

from typing import Annotated, Any, get_args

import typer
from typer.core import TyperArgument, TyperCommand

from app.config.setting import Group, Setting
from app.config.table import TABLE

_FIRST: tuple[tuple[str, tuple[Group, ...]], ...] = (
    ("Film", ("What to show", "The film", "Picture")),
    ("Model", ("Model", "Denoising", "Memory", "This machine")),
    ("Run", ("Files", "This run")),
)
"""Groups that stand together on the first screen."""
WIDEST = 112
"""Columns that help takes at most; beyond, lines are hard to follow."""
_FLAG_COLUMN = 30
"""Columns of a flag before its help begins on a line of its own."""
_ALL = "rivulet.help_all"


class GroupedHelp(TyperCommand):
    """A command whose help lists the entries of the table by group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags into the formatter of click."""
        everything: bool = ctx.meta.get(_ALL, False)
        flags = [entry for entry in TABLE.values() if "command line" in entry.places]
        shown = [entry for entry in flags if everything or entry.first]
        words = [(str(p.metavar), str(p.help)) for p in self.params if isinstance(p, TyperArgument)]
        sections = [(group, (group,)) for group in get_args(Group)] if everything else list(_FIRST)
        listed = {heading: [row_of(e, everything) for e in shown if e.group in groups] for heading, groups in sections}
        listed = {heading: rows for heading, rows in listed.items() if rows}
        listed[sections[0][0]][:0] = words
        listed[[*listed][-1]] += [
            ("--help", "The flags that most films need; in brackets what holds without them."),
            ("--help_all", f"All {len(flags)} flags, with units, ranges and other names."),
        ]
        width = 0 if everything else max(len(flag) for rows in listed.values() for flag, _ in rows)
        for heading, rows in listed.items():
            with formatter.section(heading):
                formatter.write_dl([(flag.ljust(width), help_) for flag, help_ in rows], col_max=_FLAG_COLUMN)


def row_of(entry: Setting, everything: bool) -> tuple[str, str]:
    """A flag as it is written, and its help with what holds without it; with `everything` range and other names."""
    flag = f"{entry.short}, --{entry.name}" if entry.short else f"--{entry.name}"
    if entry.denied:
        flag = f"--[no_]{entry.name}"
    if everything:
        also = ", ".join(f"--{alias}" for alias in entry.aliases)
        notes = [entry.values, f"default: {entry.says}" if entry.says else "", f"also {also}" if also else ""]
    else:
        notes = [entry.says]
    told = "; ".join(filter(None, notes))
    return f"{flag} {entry.metavar}".rstrip(), f"{entry.help} [{told}]" if told else entry.help


def _show_all(context: typer.Context, asked: bool) -> None:
    """Print all flags and end, if `--help_all` was given."""
    if asked and not context.resilient_parsing:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


HelpAll = Annotated[bool, typer.Option("--help_all", is_eager=True, callback=_show_all)]
