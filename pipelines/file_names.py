"""Which words name a file: a script that is not found must not be filmed as its own name."""

from __future__ import annotations

import os
import re

SCRIPT_ENDINGS = (
    *("yaml", "yml", "toml", "json", "jsonl", "ndjson", "txt", "text", "prompt", "prompts", "md", "markdown"),
    *("srt", "vtt", "csv", "tsv"),
)
"""Endings of the scripts that `rivulet render` reads."""
_OTHERS = (
    *("mp4", "mov", "mkv", "webm", "avi", "gif", "webp", "png", "jpg", "jpeg", "mp3", "wav", "safetensors"),
    *("ass", "ssa", "sub", "sbv", "ttml", "xml", "htm", "html", "ini", "cfg", "conf", "log", "bak", "py", "sh"),
    *("pdf", "doc", "docx", "odt", "rtf", "xls", "xlsx", "ods", "zip", "gz"),
)
_ENDS = re.compile(rf"\.({'|'.join((*SCRIPT_ENDINGS, *_OTHERS))})\s*\Z", re.IGNORECASE)
_SCRIPT = re.compile(rf"\.({'|'.join(SCRIPT_ENDINGS)})\s*\Z", re.IGNORECASE)
_BARE = re.compile(r"\s*[^\s.]\S*\.[A-Za-z][A-Za-z0-9]{1,11}\s*")
_PATH = re.compile(r"\s*(-\s*$|/|\.{1,2}/|~[^\s/]*/|[A-Za-z]:\\|\\\\|[a-z]{2,9}://)")


def is_script_name(word: str) -> bool:
    """Whether a word ends as the scripts do that Rivulet reads."""
    return _SCRIPT.search(word) is not None


def names_a_file(word: str) -> bool:
    """Whether a word is meant as a file: something of that name exists, or it looks like no words at all.

    That is a known ending (`my film.yaml`), one word with any ending (`shots.yam`), or the beginning of a path (`./`,
    `/`, `~/`). Sentences with a full stop, a slash or a number in them (`A ball. It bounces.`, `day/night`, `1.5`)
    are words.
    """
    if not word.strip():
        return False
    if os.path.lexists(word):
        return True
    return _ENDS.search(word) is not None or _BARE.fullmatch(word) is not None or _PATH.match(word) is not None
