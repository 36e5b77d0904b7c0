"""Subtitles read as shots: SubRip (.srt) and WebVTT (.vtt), Rivulet's own .vtt included.

A cue is a shot. What players do with the text is undone: markup goes, entities become letters. Our own files come back
word for word, a mix of prompts as the mix it was, with weights of two digits.
"""

import html
import re
from typing import NoReturn

from app.config.nodes import quote
from app.errors import UsageMistake
from app.script.foreign_words import refuse_foreign_words
from app.script.script import Script
from app.script.spans import Span, read_moment, script_of_spans
from pipelines.types import Prompt

_CLOCK = r"(?:\d{1,9}:)?\d{1,9}:\d{1,9}(?:[.,]\d{1,9})?"
_TIMES = re.compile(rf"\s*(-?{_CLOCK})\s*-->\s*(-?{_CLOCK})(?:[ \t]+\w+:\S+)*[ \t]*", re.ASCII)
_CUE = re.compile(
    rf"(?:\d{{1,9}}[ \t]*\n)?[ \t]*-?{_CLOCK}\s*-->[ \t]*{_CLOCK}(?:[ \t]+\w+:\S+)*[ \t]*$", re.ASCII | re.MULTILINE
)
_TAG = re.compile(r"</?(?:[ibuscv]|ruby|rt|lang|font)(?:[ .][^<>]*)?>|<[\d:.]+>", re.IGNORECASE)
_STYLE = re.compile(r"\{\\[^{}]*\}")
_BROKEN = re.compile(r"\s*(?:\d+:)?\d+:\d+[.,]\d+\s*(?:[-<>]|$)", re.ASCII)
_SHARE = re.compile(r"(\d{1,9}\.\d\d) (.+)", re.DOTALL)
_FORM = "Write 00:00:00,000 --> 00:00:04,000 and below it the prompt."


def looks_like_cues(text: str) -> bool:
    """Whether a text begins as subtitles do."""
    return is_webvtt(text) or _CUE.match(text.lstrip()) is not None


def is_webvtt(text: str) -> bool:
    """Whether a text has the head of a WebVTT file."""
    return re.match(r"\s*WEBVTT(\s|$)", text) is not None


def cues_script(text: str, file: str) -> Script:
    """Read subtitles into a script, a cue a shot.

    Raises:
        UsageMistake: no cue, a time that cannot be read, text without a time, and what script_of_spans refuses.
    """
    vtt = is_webvtt(text)
    lines = text.split("\n")
    spans: list[Span] = []
    at = 0
    if vtt:
        at = next(number for number, line in enumerate(lines) if line.strip())
        while at < len(lines) and lines[at].strip() and "-->" not in lines[at]:
            at += 1
    while at < len(lines):
        line, place = lines[at].strip(), f"{file}, line {at + 1}"
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if not line:
            at += 1
        elif vtt and re.match(r"(NOTE|STYLE|REGION)(\s|$)", line) and "-->" not in line:
            while at < len(lines) and lines[at].strip():  # which holds no cue, by the rules of the format
                at += 1
        elif "-->" in line:
            found = _TIMES.fullmatch(lines[at])
            if found is None:
                _fail(place, f"the times {quote(line)} cannot be read")
            at, words = _payload(lines, at + 1, file, counted=not vtt)
            start, end = (read_moment(moment, place, bare="s") for moment in found.groups())
            spans.append(Span(start, end, _plain("\n".join(words), place, vtt=vtt), place))
        elif "-->" in following and (vtt or line.isdigit()):
            at += 1  # its number or name
        else:
            _fail(place, f"{quote(line)} belongs to no cue")
    if not spans:
        raise UsageMistake(f"{file}: there is no cue in it. {_FORM}")
    return script_of_spans(spans, file, exact=vtt)


def _payload(lines: list[str], at: int, file: str, *, counted: bool) -> tuple[int, list[str]]:
    """The text below a cue's times and the line behind it; cues need no blank line between them in many files."""
    words: list[str] = []
    while at < len(lines) and lines[at].strip() and "-->" not in lines[at]:
        if _BROKEN.match(lines[at]) and "&gt;" not in lines[at]:
            _fail(f"{file}, line {at + 1}", f"the times {quote(lines[at])} cannot be read")
        words.append(lines[at].strip())
        at += 1
    if counted and words and at < len(lines) and "-->" in lines[at] and words[-1].isdigit():
        words.pop()
        at -= 1
    return at, words


def _plain(text: str, place: str, *, vtt: bool) -> Prompt:
    """The words of a cue; WebVTT keeps its lines, SubRip's are where a page was too narrow."""
    text = _TAG.sub("", text)
    if not vtt:
        return " ".join(_STYLE.sub("", text).split())
    if found := re.search(r"<[^<>]*>", text):  # what was meant as a letter is written as &lt;
        refuse_foreign_words(found[0], place)
    return mix_of(html.unescape(text))


def mix_of(text: str) -> Prompt:
    """A prompt as app/media/subtitles.py wrote it: `0.70 a fox + 0.30 a wolf` is a mix again, any other text itself."""
    shares = [_SHARE.fullmatch(part) for part in text.split(" + ")]
    if len(shares) < 2 or not all(shares):
        return text
    return tuple((share[2], float(share[1])) for share in shares if share is not None)


def _fail(place: str, wrong: str) -> NoReturn:
    raise UsageMistake(f"{place}: {wrong}. {_FORM}")
