"""YAML into nodes that know their lines, without what makes YAML dangerous or surprising.

Nothing is constructed: the parser's events become texts, lists and mappings, so that a tag can name no class, `0:08`
stays what it says, and `no` is a word. Anchors are refused as they are met, before anything could multiply.
"""

import re
from collections.abc import Iterator
from typing import Any, NoReturn, cast

import yaml

from app.config.nodes import DEEPEST, MOST_VALUES, Node, quote
from app.errors import UsageMistake

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times faster, and in every wheel of PyYAML
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NESTED = re.compile(rf"(?:[\[{{]\s*){{{DEEPEST + 1}}}")
_EMPTY = {"", "~", "null", "Null", "NULL"}


def parse_yaml(text: str, file: str) -> Node:
    """Read one YAML document; an empty file is an empty node.

    Raises:
        UsageMistake: not YAML, or anchors, aliases, tags, equal keys, several documents, too deep, too many values.
    """
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise UsageMistake(f"{file}, line {line}: this holds a control character ({found[0]!a}). Take it out.")
    root: Node | None = None
    try:
        events: Iterator[yaml.Event] = cast("Any", yaml).parse(text, Loader=_LOADER)  # its stub is untyped
        reader = _Reader(events, file)
        for event in events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            if root is not None:
                reader.fail(event, "a second document begins. Keep one document a file.")
            root = reader.value(next(events), "", 0)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        if found := _NESTED.search(text):  # parsers have limits of their own, and words of their own for them
            line = text.count("\n", 0, found.end()) + 1
            deep = f"lists and mappings are nested more than {DEEPEST} deep. Make it flatter."
            raise UsageMistake(f"{file}, line {line}: {deep}") from error
        raise UsageMistake(_explain(error, file)) from error
    return root or Node("null", file, 1)


class _Reader:
    """Builds nodes from the parser's events."""

    def __init__(self, events: Iterator[yaml.Event], file: str) -> None:
        self._events = events
        self._file = file
        self._values = 0

    def fail(self, event: yaml.Event, sentence: str) -> NoReturn:
        """Refuse what an event stands for."""
        raise UsageMistake(f"{self._file}, line {event.start_mark.line + 1}: {sentence}")

    def value(self, event: yaml.Event, key: str, depth: int) -> Node:
        """Build the node that begins with `event`."""
        line = event.start_mark.line + 1
        self._values += 1
        if self._values > MOST_VALUES:
            self.fail(event, f"more than {MOST_VALUES} values are too many. Split the file.")
        self._refuse_links(event)
        if isinstance(event, yaml.ScalarEvent):
            if not event.style:  # None from the Python parser, empty from the C one
                return Node("null" if event.value in _EMPTY else "plain", self._file, line, key, event.value)
            return Node("text", self._file, line, key, event.value)
        if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            if depth == DEEPEST:
                self.fail(event, f"lists and mappings are nested more than {DEEPEST} deep. Make it flatter.")
            if isinstance(event, yaml.SequenceStartEvent):
                return self._list(line, key, depth)
            return self._mapping(line, key, depth)
        raise AssertionError(event)  # the parser's grammar leaves nothing else

    def _list(self, line: int, key: str, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self.value(event, f"{key}[{len(items)}]", depth + 1))
        return Node("list", self._file, line, key, items=tuple(items))

    def _mapping(self, line: int, key: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._refuse_links(event)
            if not isinstance(event, yaml.ScalarEvent):
                self.fail(event, "a key is a list or a mapping. Write a word before the colon.")
            name: str = event.value
            if name in entries:
                self.fail(event, f"the key {quote(name)} stands there twice. Keep one of them.")
            entries[name] = self.value(next(self._events), f"{key}.{name}" if key else name, depth + 1)
        return Node("mapping", self._file, line, key, entries=entries)

    def _refuse_links(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self.fail(event, "anchors and aliases (& and *) are not read here. Write it out, or put it in quotes.")
        tag: str | None = getattr(event, "tag", None)
        if tag is not None:
            self.fail(event, f"tags such as {quote(tag)} are not read here. Leave it out, or put the text in quotes.")


def _explain(error: Exception, file: str) -> str:
    """Say where YAML broke and what usually helps."""
    line, problem = 1, "the parser gave up"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or problem
    return (
        f"{file}, line {line}: this is not YAML ({' '.join(str(problem).split())}). "
        "Indent with spaces, and put texts that hold : or # or begin with a sign in quotes."
    )
