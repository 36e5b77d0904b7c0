"""Daydream Scope's timeline, as its timeline export (versions 2.x) and its workflow files hold it.

Both are lists of spans in seconds with weighted texts; the workflow file says the same in snake_case. What else is in
such a file (model, seed, adapters) stays out, and the script's notes say so.
"""

from app.config.lengths import LONGEST_SECONDS, Length
from app.config.nodes import Node, quote
from app.script.script import MAX_SOFT_CHUNKS, Script
from app.script.shot_list import read_mix
from app.script.spans import Span, script_of_spans
from pipelines.types import Prompt, Transition

_EXPORT = {"start": "startTime", "end": "endTime", "steps": "transitionSteps", "method": "temporalInterpolationMethod"}
_WORKFLOW = {
    "start": "start_time",
    "end": "end_time",
    "steps": "transition_steps",
    "method": "temporal_interpolation_method",
}


def scope_script(document: Node) -> Script:
    """Turn a Scope timeline export or workflow into a script and check it.

    A weight counts from 0 to 100; a text of weight 0 and a span of no length show nothing and are left out, as Scope
    does. `transitionSteps` n above 0 is a soft transition of n chunks.

    Raises:
        UsageMistake: no timeline in it, another version, and what script_of_spans refuses.
    """
    root = document.mapping((), "a Scope file", ignore=True)
    names, notes = _EXPORT, ["Only the prompts and their times are taken from a Scope file; model and seed are not."]
    if "timeline" in root or "format" in root:
        names = _WORKFLOW
        timeline = root.get("timeline")
        if timeline is None or timeline.kind == "null":
            document.wrong("this Scope workflow has no timeline. Export one that has prompts on its timeline.")
        spans = timeline.mapping((), "a timeline", ignore=True).get("entries")
        if spans is None:
            timeline.wrong("this timeline has no entries. Export the workflow again.")
    else:
        spans = root["prompts"]
        version = root.get("version")
        if version is not None and not version.scalar("a version").startswith("2"):
            version.wrong(f"Scope timelines of version {quote(version.written)} are not read. Export it as version 2.")
    shots: list[Span] = []
    slerp = False
    for span in spans.list_of("prompts"):
        entries = span.mapping((), "a prompt of the timeline", ignore=True)
        start, end = _second(span, names["start"]), _second(span, names["end"])
        if start is None:
            span.wrong(f"this prompt has no {names['start']}. Write the second at which it begins.")
        if end is not None and end < start:
            entries[names["end"]].wrong(f"this prompt ends at {end:g}s, before it begins. Give {start:g} or more.")
        if end == start:
            continue
        method = entries.get(names["method"])
        slerp |= method is not None and method.written == "slerp"
        prompt, steps = _prompt(span), entries.get(names["steps"])
        until = None if end is None else Length(end, "s")
        shots.append(Span(Length(start, "s"), until, prompt, span.place, _steps(steps)))
    if not shots:
        spans.wrong("there is no prompt on this timeline. Add one in Scope and export it again.")
    shots.sort(key=lambda shot: 0.0 if shot.start is None else shot.start.amount)
    if slerp:
        notes.append("Scope's slerp blends become linear ones: the texts in between differ a little.")
    return script_of_spans(shots, document.file, notes=notes, exact=True)


def _second(span: Node, name: str) -> float | None:
    node = span.entries.get(name)
    if node is None or node.kind == "null":
        return None
    second = round(node.number(), 6)
    if not 0 <= second <= LONGEST_SECONDS:
        node.wrong(f"{second:g} seconds are not within a day of film. Give 0 to {LONGEST_SECONDS}.")
    return second


def _prompt(span: Node) -> Prompt:
    mix, text = span.entries.get("prompts"), span.entries.get("text")
    if mix is None or mix.kind == "null" or (mix.kind == "list" and not mix.items):
        if text is None:
            span.wrong("this prompt has no text. Say in a few words what the film should show.")
        return text.text()
    pairs: list[tuple[Node, Node]] = []
    for item in mix.list_of("texts with weights"):
        entries = item.mapping((), "a text with its weight", ignore=True)
        if "text" not in entries or "weight" not in entries:
            item.wrong('a text or its weight is missing. Write {"text": "...", "weight": 100}.')
        weight = entries["weight"].number()
        if not 0 <= weight <= 100:
            entries["weight"].wrong(f"the weight {weight:g} is out of range. Give 0 to 100.")
        if weight:
            pairs.append((entries["text"], entries["weight"]))
    if not pairs:
        mix.wrong("every text of this prompt has weight 0. Give one of them more.")
    shares = read_mix(mix, pairs)
    if len(shares) == 1:
        return shares[0][0]
    scale = 100 if max(weight for _, weight in shares) > 1 else 1
    return tuple((text, weight / scale) for text, weight in shares)


def _steps(node: Node | None) -> Transition | None:
    if node is None or node.kind == "null":
        return None
    steps = node.integer()
    if not 0 <= steps <= MAX_SOFT_CHUNKS:
        node.wrong(f"a transition cannot last {steps} steps. Give 0 to {MAX_SOFT_CHUNKS}.")
    return Transition("soft", steps) if steps else None
