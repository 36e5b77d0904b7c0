"""The command line: `rivulet web`, `render`, `replay`, `presets`, `models`, `bench`.

Nothing heavy is imported before a command needs it, so help comes at once; and every mistake ends as one
sentence and one action on stderr, never as a traceback (`--debug` shows it).
"""

import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.cli import doctor as cli_doctor
from app.cli import profile as cli_profile
from app.cli import v2v as cli_v2v
from app.cli import web as cli_web
from app.cli.bench import bench
from app.cli.help import WIDEST, GroupedHelp
from app.cli.models import models
from app.cli.options import option
from app.cli.render import EPILOG, render_command
from app.config.aliases import primary
from app.config.readers import choose
from app.config.table import TABLE
from app.errors import EXIT_OK, EXIT_USAGE, UsageMistake, explain, printable, shorten

app = typer.Typer(
    name="rivulet",
    help="Streaming text-to-video: one endless film that follows your words while it plays.",
    epilog="Flags may be written with _ or -. Exit codes: 0 done, 1 failed, 2 wrong usage, 129 hang-up, 130 Ctrl-C.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a render
    debug = "--debug" in arguments
    if os.environ.get("WORLD_SIZE") and (code := _help_rank_0(arguments, debug)) is not None:
        return code
    try:
        arguments = normalise(arguments)
        debug = "--debug" in arguments[:1]
        _check_command(arguments)
        result: object = app(arguments, prog_name="rivulet", standalone_mode=False)
        return result if isinstance(result, int) else EXIT_OK
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exception(error)
        message, code = _explain_usage(error) if isinstance(error, typer.TyperException) else explain(error)
        print(f"rivulet: {printable(message)}", file=sys.stderr)
        return code
    finally:
        _end_ranks(arguments)


def _help_rank_0(arguments: list[str], debug: bool) -> int | None:
    """The life of one of several ranks that is not 0, which reads the command line for all; None: this is not one."""
    from app.loading.launch import launched, spreads

    started = launched()
    if started is None or not started.rank:
        return None
    if not (spreads(arguments) or started.ours):
        return EXIT_OK
    from app.loading.follower import follow

    return follow(started, debug)


def _end_ranks(arguments: list[str]) -> None:
    """Let all other ranks end, those that were started and those that wait for a film that did not come."""
    if os.environ.get("WORLD_SIZE") or "app.loading.launch" in sys.modules:
        from app.loading.launch import CLOSING, spreads

        while CLOSING:
            CLOSING.pop()()
        if os.environ.get("WORLD_SIZE") and spreads(arguments):
            from app.loading.ranks import release

            release()


def normalise(argv: Sequence[str]) -> list[str]:
    """Spell flags with `_`, as either is common, and put `--debug` first; a bare `--` ends it.

    Behind `render` and `v2v`, names of other projects become ours, and `--cache.sink_size 3` becomes the setting
    `cache.sink_size=3`.

    Raises:
        UsageMistake: such a setting has no value.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    render = next((argument for argument in argv[:end] if not argument.startswith("-")), None) in ("render", "v2v")
    flags: list[str] = []
    arguments = iter(argv[:end])
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            flags.append(argument)
        elif render and "." in name:
            if not equals and (value := next(arguments, "--")).startswith("--"):
                raise UsageMistake(f"{shorten(name, 40)} needs a value. Write {shorten(name, 40)} VALUE.")
            flags.append(f"{name[2:]}={value}")
        else:
            spelled = name[2:].replace("-", "_")
            flags.append(f"--{primary(spelled) if render else spelled}{equals}{value}")
    debug = ["--debug"] if "--debug" in flags else []
    return debug + [flag for flag in flags if flag != "--debug"] + list(argv[end:])


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")] = False,
) -> None:
    """Open the live page when no command is given."""
    if version:
        from app.record.sidecar import library_versions

        print("  ".join(f"{name} {number}" for name, number in library_versions().items()))
    elif context.invoked_subcommand is None:
        app(["web"], prog_name="rivulet", standalone_mode=False)


app.command("web", short_help="Open the live page; rivulet alone does.", epilog=cli_web.EPILOG)(cli_web.web_command)

app.command(
    "render",
    short_help="Render prompts or a script into a film.",
    epilog=EPILOG,
    cls=GroupedHelp,
    context_settings={"max_content_width": WIDEST},
)(render_command)

app.command("v2v", short_help="Make a film of a video.", epilog=cli_v2v.EPILOG)(cli_v2v.v2v_command)


@app.command("replay", short_help="Render a film again from what it carries.")
def replay_command(
    film: Annotated[
        Path, typer.Argument(metavar="FILE", help="A film of rivulet render, its .json, or a live session.jsonl.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="Other settings, as render knows them.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new film.", show_default="FILE-again, of the same kind")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Prove record, settings and pictures; exit code 1 if one does not match.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing film.")] = False,
    source: Annotated[
        str | None, typer.Option("--input", metavar="VIDEO", help="Where the video lies that the film was made of.")
    ] = None,
    preset: Annotated[str | None, option(TABLE["preset"], usual="")] = None,
    model: Annotated[str | None, option(TABLE["model"], usual="")] = None,
    size: Annotated[str | None, option(TABLE["size"], usual="")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="With so many denoising steps.")] = None,
    lora: Annotated[list[str] | None, option(TABLE["lora"])] = None,
    vae: Annotated[str | None, option(TABLE["vae"], usual="")] = None,
    untrained: Annotated[bool | None, option(TABLE["untrained"])] = None,
    parallel: Annotated[str | None, option(TABLE["parallel"])] = None,
    gpus: Annotated[int | None, option(TABLE["gpus"], usual="")] = None,
    accept_licence: Annotated[list[str] | None, option(TABLE["accept_licence"])] = None,
) -> int:
    """Render a film again: script, seed and settings are in the .mp4 and in the .json beside it."""
    from rich.console import Console

    from app.config.settings import given_by_flags, given_by_overrides
    from app.render.replay import replay

    flags = {"preset": preset, "model": model, "size": size, "num_inference_steps": steps, "untrained": untrained}
    flags |= {"lora": lora or None, "vae": vae, "parallel": parallel, "gpus": gpus}
    changes = [layer for layer in (given_by_flags(flags), given_by_overrides(settings or [])) if layer]

    return replay(
        film,
        output,
        check=check,
        overwrite=overwrite,
        console=Console(highlight=False, markup=False, emoji=False),
        changes=changes,
        accept_licence=tuple(accept_licence or ()),
        video=source,
    )


@app.command("presets", short_help="List the streaming systems.")
def presets_command(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the streaming systems and whether their models are on this disk."""
    from app.cli.presets import preset_notes, preset_rows, preset_table

    rows = preset_rows()
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False, markup=False)
        console.print(preset_table(rows))
        console.print(preset_notes(rows), soft_wrap=True)


app.add_typer(bench, name="bench", short_help="Measure speed, cost, quality, the live server, robustness.")

app.add_typer(models, name="models", short_help="List, fetch, check and remove weights.")

app.command("profile", short_help="Find out what a model allows its feature caches.", epilog=cli_profile.EPILOG)(
    cli_profile.profile_command
)

app.command("doctor", short_help="Check this machine and say what is missing.", epilog=cli_doctor.EPILOG)(
    cli_doctor.doctor_command
)


def _check_command(arguments: Sequence[str]) -> None:
    """Refuse an unknown command with the nearest one; a whole sentence was meant for render."""
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    names = [entry.name for entry in (*app.registered_commands, *app.registered_groups) if entry.name]
    if word is None or word in names:
        return
    if " " in word.strip():
        raise UsageMistake(f'"{shorten(word, 40)}" is not a command. To film it: rivulet render "{shorten(word, 40)}"')
    choose(word, names, "command")


def _explain_usage(error: typer.TyperException) -> tuple[str, int]:
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rivulet"
    option: str | None = getattr(error, "option_name", None)
    if option is not None and type(error).__name__ == "NoSuchOption":
        near: Sequence[str] = getattr(error, "possibilities", None) or ()
        hint = f"; did you mean {' or '.join(near)}?" if near else f". See `{command} --help`."
        return f"{command} has no flag {shorten(option, 40)}{hint}", EXIT_USAGE
    return f"{error.format_message().rstrip('.')}. See `{command} --help`.", EXIT_USAGE
