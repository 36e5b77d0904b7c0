"""docs/settings.md, from the table of settings: `python -m app.config.settings_page` writes it, a test compares.

Nothing in it is typed twice, so nothing in it goes out of date.
"""

from pathlib import Path
from typing import get_args

from app.atomic import write_text
from app.config.setting import REPLAY, Group, Setting
from app.config.table import TABLE

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_INTRODUCTION = """# Settings

Made by `python -m app.config.settings_page` from app/config/table.py, which holds one entry a setting.

A setting is a flag of `rivulet render` (`--sink_size 3`, with `_` or `-`, also by the names other projects have for
it), a word behind the prompts (`sink_size=3`) and a key of a `--config` file, under its heading or without
(`cache: {sink_size: 3}`). Flags win over words, words over the file, the file over the preset, the preset over the
model's card. A value that cannot be is refused in one sentence that names flag, or file, line and key.

- **where**: *file* stands for words and config files. *job* is a request of `/v1/videos`, under `settings` or in the
  field named. *live* is `session.set`, while a film plays: the name there and its range. *page* has a control for it.
- **replay**: what the setting means for `rivulet replay`."""
_MEANINGS = "\n".join(f"  - *{name}*: {meaning}." for name, meaning in REPLAY.items())
_HEAD = "| setting | | values | usual | where | replay |\n|---|---|---|---|---|---|"


def page() -> str:
    """The text of docs/settings.md."""
    parts = [f"{_INTRODUCTION}\n{_MEANINGS}\n"]
    for group in get_args(Group):
        rows = [_row(entry) for entry in TABLE.values() if entry.group == group]
        parts.append("\n".join([f"\n## {group}\n", _HEAD, *rows, ""]))
    return "".join(parts)


def _row(entry: Setting) -> str:
    names = ", ".join(f"`{alias}`" for alias in entry.aliases)
    flag = f"`{entry.name}`" + (f" `{entry.short}`" if entry.short else "")
    known = "" if entry.replay == "machine" else entry.values  # whose bounds are those of the machine that asks
    values = known or ("yes or no" if entry.one is bool else entry.metavar)
    cells = (
        f"{flag} ({names})" if names else flag,
        entry.help,
        values.replace("|", " or "),
        entry.says or ("no" if entry.one is bool else ""),
        ", ".join(_places(entry)),
        entry.replay,
    )
    return f"| {' | '.join(cells)} |"


def _places(entry: Setting) -> list[str]:
    """Where it can be set, with the names it has there."""
    places = ["flag"] if "command line" in entry.places else ["flag of v2v"] if "v2v" in entry.places else []
    if "file" in entry.places:
        heading, _, own = entry.section.partition(".")
        places.append(f"file `{heading}.{own or entry.name}`" if heading else "file")
    if entry.job:
        places.append("job" if entry.job == "settings" else f"job `{entry.job}`")
    if entry.wire is not None:
        places.append(f"live `{entry.wire.name}` {entry.wire.least:g} to {entry.wire.most:g}")
    return [*places, "page"] if entry.control is not None else places


if __name__ == "__main__":
    write_text(PAGE, page())
