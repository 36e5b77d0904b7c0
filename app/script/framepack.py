"""FramePack-Studio's timed prompts: `[0s-5s: a fox] [5s: a wolf] film grain`.

A section is brackets with a start, perhaps an end, a colon and a text; times are seconds with an s. Text outside the
brackets is what every shot shares, as its users expect (FP-Studio issue 65).
"""

import re
from bisect import bisect_left

from app.config.lengths import parse_moment
from app.config.nodes import quote
from app.errors import UsageMistake
from app.script.script import Script
from app.script.spans import Span, script_of_spans

_SECTION = re.compile(r"\[\s*(\d{1,9}(?:\.\d{1,9})?)s\s*(?:-\s*(\d{1,9}(?:\.\d{1,9})?)s\s*)?:([^\[\]]*)\]", re.ASCII)
_MEANT = re.compile(r"\[\s*-?[\d.]{1,20}\s*(?:s\b|[-:\]])[^\]]{0,40}\]?", re.ASCII)
_FORM = "Write it like [5s: a text] or [0s-5s: a text]."


def looks_timed(text: str) -> bool:
    """Whether a text has at least one section, or what was meant as one."""
    return re.search(r"\[\s*-?\d[\d.]{0,20}\s*(s\s*[-:\]]|:)", text, re.ASCII) is not None


def parse_framepack(text: str, file: str, *, first_line: int = 1) -> Script:
    """Read timed sections into a script; they may stand in any order, as in FramePack-Studio.

    Raises:
        UsageMistake: a section that cannot be read, and what script_of_spans refuses.
    """

    breaks = [found.start() for found in re.finditer("\n", text)]

    def place(offset: int) -> str:
        return f"{file}, line {first_line + bisect_left(breaks, offset)}"

    outside = _SECTION.sub("", text)
    if broken := _MEANT.search(_SECTION.sub(lambda found: " " * len(found[0]), text)):
        raise UsageMistake(f"{place(broken.start())}: the section {quote(broken[0])} cannot be read. {_FORM}")
    spans: list[Span] = []
    for found in _SECTION.finditer(text):
        where = place(found.start())
        try:
            start, end = parse_moment(f"{found[1]}s"), parse_moment(f"{found[2]}s") if found[2] else None
        except UsageMistake as mistake:
            raise UsageMistake(f"{where}: {mistake}") from mistake
        if end is not None and end.amount <= start.amount:
            raise UsageMistake(f"{where}: this section ends at {end}, before it begins. Give an end after {start}.")
        spans.append(Span(start, end, " ".join(found[3].split()), where))
    spans.sort(key=lambda span: 0.0 if span.start is None else span.start.amount)
    return script_of_spans(spans, file, style=" ".join(outside.split()))
