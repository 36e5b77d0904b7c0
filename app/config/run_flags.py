"""Flags of a run: what a person decides when typing the command, and no file says."""

from functools import partial
from pathlib import Path

from app.config.setting import setting

_here = partial(setting, group="This machine")
_run = partial(setting, group="This run")


class Run:
    """What a person decides when typing the command: flags that are no settings and stand in no file."""

    config: str | None = _run(
        None, "Settings as .yaml, .json or .toml.", written="FILE", aliases=("config_path", "config_json"), first=True
    )
    export: Path | None = _run(
        None, "Write the script as .yaml, or .jsonl for LongLive, and film nothing.", written="FILE"
    )
    overwrite: bool = _run(False, "Replace an existing film.", first=True)
    resume: bool = _run(False, "Go on with a render that did not finish.", first=True)
    dry_run: bool = _run(
        False, "Print what would be filmed, and what it costs; film nothing.", aliases=("dryrun",), first=True
    )
    json: bool = _run(False, "With --dry_run: for programs.")
    json_progress: bool = _run(False, "Progress as a line of JSON a chunk, for programs.")
    cluster: str | None = _here(
        None, "Make films on a Ray cluster: auto is this machine's own, else the head node.", written="auto|HOST:PORT"
    )
    accept_licence: tuple[str, ...] = _here(
        (), "You accept the licence of these weights.", written="MODEL", aliases=("accept_license",)
    )
