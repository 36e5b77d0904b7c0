"""Flags of the command line, made from the table of settings (app/config/table.py)."""

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, TypeVar, cast

import typer

from app.config.setting import Setting
from app.config.table import TABLE

Command = TypeVar("Command", bound=Callable[..., int])


def option(entry: Setting, default: Any = ..., *, usual: str | None = None, hidden: bool = False) -> Any:
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
        hidden=hidden,
    )


def flags_of(entries: Iterable[Setting], hidden: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command that takes **given a flag for each of these; help does not list the `hidden` ones.

    Every setting is None until it is given, or it could not be told from its default.
    """
    flags = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option(
                entry, False if entry.kind == "run" and entry.one is bool else None, hidden=entry.name in hidden
            ),
            annotation=entry.flag_type if entry.kind == "run" and entry.one is bool else entry.flag_type | None,
        )
        for entry in entries
    ]

    def with_flags(command: Command) -> Command:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        cast("Any", command).__signature__ = inspect.Signature([*own, *flags], return_annotation=int)
        return command

    return with_flags


ModelName = Annotated[str | None, option(TABLE["model"])]
Threads = Annotated[int | None, option(TABLE["threads"])]
DeviceName = Annotated[str, option(TABLE["device"])]
PresetName = Annotated[str, option(TABLE["preset"])]
