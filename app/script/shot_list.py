"""The native shot list, read and written: times, prompts, transitions and scheduled parameters in one YAML file.

JSON of the same shape is read as well; what is written is YAML with every text in double quotes, because that is the
one notation in which any text comes back as it was.
"""

import re
from collections.abc import Mapping, Sequence

from app.config.lengths import Length, parse_moment
from app.config.nodes import Node, did_you_mean, quote
from app.config.yaml_tree import parse_yaml
from app.errors import UsageMistake
from app.script.pictures import KINDS, pictures_of
from app.script.script import MAX_SOFT_CHUNKS, PARAMETERS, RECACHE, SOFT_CHUNKS, Script, ScriptShot, check_script
from pipelines.types import TRANSITIONS, Prompt, Transition

VERSION = 1
_DOCUMENT = ("version", "defaults", "shots", "end", *KINDS)
_DEFAULTS = ("style", "transition")
_SHOT = ("at", "prompt", "transition", *PARAMETERS, *KINDS)
_SOFT = re.compile(r"soft\s+(\d{1,9})", re.ASCII)


def parse_native(text: str, file: str) -> Script:
    """Read a shot list from YAML.

    Raises:
        UsageMistake: with file, line and key, whatever is wrong with it.
    """
    return native_script(parse_yaml(text, file))


def native_script(document: Node) -> Script:
    """Turn a shot list, from YAML or JSON, into a script and check it.

    Raises:
        UsageMistake: unknown keys and versions, values of a wrong kind, and what check_script refuses.
    """
    if document.kind == "null":
        document.wrong("this file is empty. Write shots: and below it - prompt: ...")
    entries = document.mapping(_DOCUMENT, "a shot list")
    if (version := entries.get("version")) is not None and version.integer() != VERSION:
        version.wrong(f"version {quote(version.written)} is not one this Rivulet reads. Write version: {VERSION}.")
    if "shots" not in entries:
        document.wrong("this shot list has no shots. Write shots: and below it - prompt: ...")
    defaults: Mapping[str, Node] = {}
    if "defaults" in entries:
        defaults = entries["defaults"].mapping(_DEFAULTS, "defaults")
    shots = entries["shots"].list_of("shots")
    if not shots:
        entries["shots"].wrong("this list is empty. Write - prompt: and what to show.")
    script = Script(
        shots=tuple(_shot(node) for node in shots),
        end=_moment(entries["end"]) if "end" in entries else None,
        style=defaults["style"].text() if "style" in defaults else "",
        transition=_transition(defaults["transition"]) if "transition" in defaults else RECACHE,
        place=document.file,
        pictures=pictures_of([entries, *(node.entries for node in shots)]),
    )
    check_script(script)
    return script


def export_native(script: Script) -> str:
    """Write a shot list that reads back as the same script.

    Raises:
        UsageMistake: a script that could not be filmed either.
    """
    check_script(script)
    lines = [f"version: {VERSION}"]
    defaults = [f"style: {_quoted(script.style)}"] if script.style else []
    if script.transition != RECACHE:
        defaults.append(f"transition: {_written(script.transition)}")
    if defaults:
        lines.append(f"defaults: {{{', '.join(defaults)}}}")
    if script.pictures is not None:
        lines.append(f"{script.pictures.kind}: {_quoted(script.pictures.file)}")
    lines.append("shots:")
    for shot in script.shots:
        entries = [f"prompt: {_prompt_written(shot.prompt)}"]
        if shot.at is not None:
            entries.insert(0, f"at: {shot.at}")
        if shot.transition is not None:
            entries.append(f"transition: {_written(shot.transition)}")
        entries += [f"{name}: {value!r}" for name, value in shot.parameters]
        lines += [f"  - {entries[0]}", *(f"    {entry}" for entry in entries[1:])]
    if script.end is not None:
        lines.append(f"end: {script.end}")
    return "\n".join(lines) + "\n"


def read_mix(node: Node, pairs: Sequence[tuple[Node, Node]]) -> tuple[tuple[str, float], ...]:
    """A weighted prompt from the nodes of its texts and weights; `node` is where it stands."""
    mix = tuple((text.text(), weight.number()) for text, weight in pairs)
    if not mix:
        node.wrong("this prompt is empty. Say in a few words what the film should show.")
    for (_, weight), (_, where) in zip(mix, pairs, strict=True):
        if not 0 < weight <= 1e6:
            where.wrong(f"a weight of {weight:g} is not above 0. Give shares such as 0.7 and 0.3.")
    return mix


def _shot(node: Node) -> ScriptShot:
    entries = node.mapping(_SHOT, "a shot")
    if "prompt" not in entries:
        node.wrong("this shot has no prompt. Write prompt: and what to show.")
    return ScriptShot(
        at=_moment(entries["at"]) if "at" in entries else None,
        prompt=_prompt(entries["prompt"]),
        transition=_transition(entries["transition"]) if "transition" in entries else None,
        parameters=tuple((name, entries[name].number()) for name in PARAMETERS if name in entries),
        place=node.place,
    )


def _prompt(node: Node) -> Prompt:
    if node.kind == "null":
        node.wrong("this prompt is empty. Say in a few words what the film should show.")
    if node.kind != "list":
        return node.text()
    pairs: list[tuple[Node, Node]] = []
    for item in node.items:
        pair = item.list_of("a text and its weight")
        if len(pair) != 2:
            item.wrong('a weighted prompt is a list of pairs. Write ["a text", 0.7].')
        pairs.append((pair[0], pair[1]))
    return read_mix(node, pairs)


def _moment(node: Node) -> Length:
    written = node.scalar("a time")
    try:
        return parse_moment(written)
    except UsageMistake as mistake:
        node.wrong(str(mistake))


def _transition(node: Node) -> Transition:
    if node.kind == "mapping":
        entries = node.mapping(("kind", "chunks"), "a transition")
        if "kind" not in entries:
            node.wrong(f"this transition has no kind. Write kind: {', '.join(TRANSITIONS[:-1])} or {TRANSITIONS[-1]}.")
        kind, length = entries["kind"], entries.get("chunks")
        chunks = None if length is None else length.integer()
    else:
        kind, length = node, node
        found = _SOFT.fullmatch(node.scalar("a transition").strip())
        chunks = int(found[1]) if found else None
    written = kind.scalar("a transition").strip()
    name = "soft" if _SOFT.fullmatch(written) else {"re-cache": "recache"}.get(written, written)
    if name not in TRANSITIONS:
        kind.wrong(f"there is no transition {quote(written)}{did_you_mean(name, TRANSITIONS)} {_CHOICES}")
    if name == "soft":
        chunks = SOFT_CHUNKS if chunks is None else chunks
        if not 1 <= chunks <= MAX_SOFT_CHUNKS:
            (length or node).wrong(f"a soft transition cannot last {chunks} chunks. Give 1 to {MAX_SOFT_CHUNKS}.")
        return Transition("soft", chunks)
    if chunks is not None and chunks != 0:
        (length or node).wrong(f"a {name} transition takes no length. Take chunks out, or write kind: soft.")
    return Transition(name)


_CHOICES = f"Write {', '.join(TRANSITIONS[:-1])} or {TRANSITIONS[-1]}."


def _written(transition: Transition) -> str:
    if transition.kind == "soft":
        return f"{{kind: soft, chunks: {transition.chunks}}}"
    return transition.kind


def _prompt_written(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return _quoted(prompt)
    return f"[{', '.join(f'[{_quoted(text)}, {weight!r}]' for text, weight in prompt)}]"


def _quoted(text: str) -> str:
    """A YAML text in double quotes: what prints stands as it is, everything else as an escape."""
    return f'"{"".join(_escaped(c) for c in text)}"'


def _escaped(c: str) -> str:
    if c in '"\\':
        return f"\\{c}"
    if c.isprintable():
        return c
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
