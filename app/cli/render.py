"""The command `rivulet render`: which of its words are prompts, scripts and settings.

Its flags are those of app/config/table.py; what they mean beside a config file is decided in app/config/settings.py,
what is filmed in app/render/batch.py.
"""

import os
import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.help import HelpAll
from app.cli.options import flags_of
from app.config.aliases import ALIASES, GROUPS, primary
from app.config.nodes import one_line
from app.config.table import READERS, TABLE
from app.errors import UsageMistake, printable, shorten
from pipelines.file_names import names_a_file

EPILOG = (
    'Example: rivulet render "a red ball bounces over the sea" "a blue star over snow" -o out.mp4. '
    "A word that is a file, ends like one or begins like a path is read as a script and never filmed; say such words "
    "with --prompt. Settings may follow as name=value (sink_size=3) and stand in a --config file; "
    "flags win over these, these over the file, the file over the preset."
)

_SETTING = re.compile(r"([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)=", re.ASCII)


@flags_of(entry for entry in TABLE.values() if "command line" in entry.places)
def render_command(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT|SCRIPT",
            help="What to show; several prompts share the film. Or a script: .yaml, .txt, .srt, .csv ...",
            show_default=False,
        ),
    ] = None,
    help_all: HelpAll = False,  # which ends in the parser
    **given: Any,
) -> int:
    """Render prompts or a script into a film (.mp4), with a .json of settings, seed and hashes beside it."""
    from app.config.settings import given_by_file, given_by_flags, given_by_overrides, resolve

    texts, overrides = split_words(words or [])
    flags = {name: value for name, value in given.items() if TABLE[name].kind != "run" and name != "prompt"}
    prompt: list[str] = given["prompt"] or []
    file = script_among(texts, others=[*prompt, *(f for f in (given["script"], given["prompts"]) if f)])
    if file is not None:
        flags["script"] = file
    else:
        flags["prompt"] = [*texts, *prompt]
    if given["json"] and not given["dry_run"]:
        raise UsageMistake("--json goes with --dry_run. Add --dry_run, or use --json_progress.")
    layers = [given_by_flags(flags), given_by_overrides(overrides)]
    if given["config"] is not None:
        layers.append(given_by_file(Path(given["config"])))
    if given["cluster"] is not None:
        from app.cluster.nodes import check_installed

        check_installed()
    resolved = resolve(layers)  # before anything larger is imported: a mistake in a setting is told at once
    from app.render.batch import RunFlags, film

    return film(
        resolved,
        RunFlags(
            resume=given["resume"],
            overwrite=given["overwrite"],
            dry_run=given["dry_run"],
            as_json=given["json"],
            json_progress=given["json_progress"],
            export=given["export"],
            accept_licence=tuple(given["accept_licence"] or ()),
        ),
        *([] if given["cluster"] is None else [_on_cluster(given["cluster"])]),
    )


def _on_cluster(where: str) -> Any:
    """What makes films on the cluster at `where`."""

    def renders(requests: Any, console: Any) -> int:
        from app.cluster.ray_workers import render_films

        return render_films(requests, where, console)

    return renders


def script_among(words: Sequence[str], *, others: Sequence[str]) -> str | None:
    """The one of some words that names a file, if one does; the words are then nothing but this script.

    Args:
        words: prompts, or a script.
        others: what else was given to be filmed.

    Raises:
        UsageMistake: a folder, several files, or a file beside prompts.
    """
    together = " ".join(words)
    if len(words) > 1 and os.path.lexists(together):
        quoted = shlex.quote(one_line(shorten(together, 60)))
        raise UsageMistake(f"{quoted} is a file, and its name has spaces in it. Put the name in quotes.")
    files = [word for word in words if names_a_file(word)]
    if not files:
        return None
    shown = [one_line(shorten(word, 60)) for word in files]
    say = f"--prompt {shlex.quote(shown[0])} to film these words"
    if len(files) > 1:
        raise UsageMistake(f"{shown[0]} and {shown[1]} are both files. Render one script at a time, or say {say}.")
    if len(words) > 1 or others:
        other = one_line(shorten([*(word for word in words if word not in files), *others][0], 40))
        raise UsageMistake(f"{shown[0]} is a script, and {other} is to be filmed too. Give one of them, or say {say}.")
    try:
        folder = Path(files[0]).is_dir()
    except (OSError, ValueError):
        folder = False
    if folder:
        raise UsageMistake(f"{shown[0]} is a folder. Give a script in it, or say {say}.")
    return files[0]


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part prompts from settings: `cache.sink_size=3` and `seed=7` are settings, `x = y` and anything else prompts.

    Raises:
        UsageMistake: a single word with = that is nearly a setting: filming it would be a waste of a night.
    """
    texts: list[str] = []
    overrides: list[str] = []
    names = [*READERS, *ALIASES, "size"]
    for word in words:
        found = _SETTING.match(word)
        if found is None:
            texts.append(word)
        elif "." in found[1] or primary(found[1]) in names or found[1] in GROUPS:
            overrides.append(word)
        elif not re.search(r"\s", word) and (near := get_close_matches(found[1].lower()[:80], names, n=1, cutoff=0.75)):
            shown = printable(shorten(word, 40))
            raise UsageMistake(f"{shown} is no setting. Write {near[0]}=, or --prompt {shown} to film these words.")
        else:
            texts.append(word)
    return texts, overrides
