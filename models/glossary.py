"""What a small model's vocabulary leaves unsaid: other words by what they mean, plurals, and single typing slips.

A glossary is a file beside the text encoder (training/meanings.py makes it): other English words, ten more languages
and emoji, each with the known words that mean it. A word is never answered by its spelling alone unless it is one slip
of the fingers away, because `cat` is not `cactus`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

GLOSSARY_FILE = "glossary.json"
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]+")
"""Scripts that put no spaces between words: kana and Chinese characters."""
_ARTICLES = frozenset({"a", "an", "the"})
_PREPOSITIONS = frozenset({"in", "on", "at", "over", "above", "under", "by", "to", "of", "with", "from", "below"})
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SHORTEST_SLIP = 4
"""Letters: of a shorter word another one is always one slip away."""


def folded(word: str) -> str:
    """A word in lower case and without accents."""
    plain = unicodedata.normalize("NFKD", word.casefold().replace("\u2019", "'"))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


@dataclass(frozen=True, slots=True)
class Glossary:
    """Words that a model does not know, and what they mean in words that it does.

    Args:
        categories: what the model knows: a name in the plural and the plain words of it, such as shapes.
        meanings: a folded word -> known words that mean it; an empty text where it is a word that nothing comes near.
        nothing: folded words that say nothing of a picture, so that nobody misses them.
        slips: those of the meanings' words that a typed one may be a slip of. Across languages every word is a slip of
            some other: fire of the Italian flower.
    """

    categories: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    meanings: Mapping[str, str] = field(default_factory=dict[str, str])
    nothing: Collection[str] = ()
    slips: Collection[str] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """The glossary of a file.

        Raises:
            ValueError: it is none.
        """
        return cls.of(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def of(cls, data: Any) -> Self:
        """A glossary from JSON.

        Raises:
            ValueError: it is none.
        """
        keys = {"categories", "meanings", "nothing", "slips"}
        if not isinstance(data, dict) or set(cast("dict[str, Any]", data)) not in (keys, keys - {"slips"}):
            raise ValueError("a glossary has categories, meanings, nothing and slips")
        categories, meanings, nothing = data["categories"], data["meanings"], data["nothing"]
        slips: Any = cast("dict[str, Any]", data).get("slips", [])
        if not (isinstance(categories, dict) and isinstance(meanings, dict)):
            raise ValueError("its categories and meanings are objects")
        if not (isinstance(nothing, list) and isinstance(slips, list)):
            raise ValueError("its nothing and slips are lists")
        lists: list[Any] = list(cast("dict[str, Any]", categories).values())
        if not all(isinstance(words, list) for words in lists):
            raise ValueError("a category is a list of words")
        words: list[Any] = [
            *meanings,
            *meanings.values(),
            *nothing,
            *slips,
            *categories,
            *(word for all_ in lists for word in all_),
        ]
        if not all(isinstance(word, str) for word in words):
            raise ValueError("a glossary is made of words")
        shown = {name: tuple(words) for name, words in categories.items()}
        return cls(shown, meanings, frozenset(nothing), frozenset(slips))

    def write(self, path: Path) -> None:
        """Keep it as a file that `read` reads."""
        lists = {"nothing": sorted(self.nothing), "slips": sorted(self.slips)}
        kept = {"categories": self.categories, "meanings": self.meanings, **lists}
        path.write_text(json.dumps(kept, ensure_ascii=False, indent=0, default=list) + "\n", encoding="utf-8")

    def unknown(self, prompt: str, known: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The words of a prompt that mean something and are not `known`, each with known words that mean the same.

        A word that nothing comes near has none. Emoji count as words.
        """
        found: dict[str, tuple[str, ...]] = {}
        for word in self._words(prompt):
            if word in known or word in found:
                continue
            near = self._near(folded(word), known)
            if near is not None:
                found[word] = near
        return found

    def instead(self, prompt: str, known: Collection[str], unknown: Mapping[str, Sequence[str]]) -> str:
        """A prompt in words that are `known`: what is `unknown`, by what it means, and without what means nothing here.

        `unknown` is what the method of that name found in the prompt: searching is the costly part.
        """
        said: list[str] = []
        for word in self._words(prompt):
            near = (word,) if word in known else unknown.get(word)
            if not near:
                while near is not None and said and said[-1] in _ARTICLES:
                    said.pop()  # of the thing that is left out
                continue
            meant = near[0].split()
            if len(meant) > 1 and meant[0] in _PREPOSITIONS:
                while said and said[-1] in _PREPOSITIONS | _ARTICLES:
                    said.pop()  # "over the" beach is "over the sea" itself
            said += meant
        return " ".join(said)

    def _words(self, prompt: str) -> Iterator[str]:
        text = prompt.lower().replace("\u2019", "'")
        for match in _WORD.finditer(text):
            pieces = _UNSPACED.findall(match[0])
            yield from (part for piece in pieces for part in self._cut(piece)) if pieces else (match[0],)
        yield from (letter for letter in text if unicodedata.category(letter) == "So" and letter not in "\ufe0f")

    def _cut(self, text: str) -> Iterator[str]:
        """Words of a text without spaces: the longest that the glossary has, or letters that nobody knows together."""
        rest = ""
        while text:
            length = next((n for n in range(min(6, len(text)), 0, -1) if self._has(text[:n])), 0)
            if not length:
                rest, text = rest + text[0], text[1:]
                continue
            yield from [rest] if rest else []
            yield text[:length]
            rest, text = "", text[length:]
        yield from [rest] if rest else []

    def _has(self, word: str) -> bool:
        return folded(word) in self.meanings or folded(word) in self.nothing

    def _near(self, word: str, known: Collection[str]) -> tuple[str, ...] | None:
        """Known words that mean `word`, or None where it means nothing."""
        for form in _forms(word):
            if form in known:
                return (form,)
            if form in self.meanings:
                return (self.meanings[form],) if self.meanings[form] else ()
            if form in self.nothing:
                return None
        if word.isdigit():
            return None
        slips = [other for other in known if one_slip(word, other)]
        meant = [self.meanings[other] for other in self.slips if one_slip(word, other)]
        return tuple(dict.fromkeys([*sorted(slips), *sorted(meant)]))[:3]


def _forms(word: str) -> Iterable[str]:
    """A word as it stands and without English endings: plurals, -ing and -ed."""
    yield word
    for ending, instead in (
        ("ies", "y"),
        ("es", ""),
        ("s", ""),
        ("'s", ""),
        ("ing", ""),
        ("ing", "e"),
        ("ed", ""),
        ("ed", "e"),
    ):
        if word.endswith(ending) and len(word) - len(ending) + len(instead) >= 3:
            yield word[: -len(ending)] + instead
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 3 and stem[-1] == stem[-2]:
            yield stem[:-1]


def one_slip(typed: str, meant: str) -> bool:
    """Whether `typed` is `meant` with one slip: a letter too many or too few, two swapped, or a neighbour.

    A neighbour is a letter next to the right one on the keyboard: any other makes another word. So does every slip in
    words of three letters but two swapped ones, and a first letter too many or too few (seal is not sea).
    """
    if abs(len(typed) - len(meant)) > 1 or min(len(typed), len(meant)) < SHORTEST_SLIP - 1 or typed == meant:
        return False
    if len(typed) == len(meant):
        wrong = [i for i in range(len(meant)) if typed[i] != meant[i]]
        if len(wrong) == 1:
            return len(meant) > SHORTEST_SLIP and _beside(typed[wrong[0]], meant[wrong[0]])
        i = wrong[0]
        return wrong == [i, i + 1] and typed[i] == meant[i + 1] and typed[i + 1] == meant[i]
    shorter, longer = sorted((typed, meant), key=len)
    gaps = [i for i in range(1, len(longer)) if longer[:i] + longer[i + 1 :] == shorter]
    return len(gaps) > (len(shorter) < SHORTEST_SLIP)  # of three letters only a double one is lost: bal


def _beside(one: str, other: str) -> bool:
    places = {letter: (row, column) for row, letters in enumerate(_ROWS) for column, letter in enumerate(letters)}
    if one not in places or other not in places:
        return False
    (row, column), (other_row, other_column) = places[one], places[other]
    return abs(row - other_row) + abs(column - other_column) == 1 or (
        abs(row - other_row) == 1 and column - other_column == row - other_row
    )
