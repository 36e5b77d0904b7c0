"""Flags of the command line, made from the table of settings (app/config/table.py)."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast

import typer

from app.config.setting import Setting
from app.config.table import TABLE

Command = TypeVar("Command", bound=Callable[..., int])


def option(entry: Setting, default: Any = ..., *, usual: str | None = None) -> Any:
    """What the parser has to know of a flag; `usual` tells what holds without it, where that is not the table's."""
    name = f"--{entry.name}/--no_{entry.name}" if entry.denied else f"--{entry.name}"
    says = entry.says if usual is None else usual
    least, most = entry.bounds if entry.parser_bounds and entry.bounds is not None else (None, None)
    return typer.Option(
        default,
        name,
        *([entry.short] if entry.short else []),
        help=f"{entry.help} [default: {says}]" if says else entry.help,
        metavar=entry.metavar or None,
        min=least,
        max=most,
        show_default=False,
    )


def flags_of_table(command: Command) -> Command:
    """Give a command that takes **given a flag for every entry of the table that is one.

    Every setting is None until it is given, or it could not be told from its default.
    """
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    flags = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option(entry, default=False if entry.kind == "run" and entry.one is bool else None),
            annotation=entry.flag_type if entry.kind == "run" and entry.one is bool else entry.flag_type | None,
        )
        for entry in TABLE.values()
        if "command line" in entry.places
    ]
    cast("Any", command).__signature__ = inspect.Signature([*own, *flags], return_annotation=int)
    return command


ModelName = Annotated[str | None, option(TABLE["model"])]
Threads = Annotated[int | None, option(TABLE["threads"])]
DeviceName = Annotated[str, option(TABLE["device"])]
PresetName = Annotated[str, option(TABLE["preset"])]
