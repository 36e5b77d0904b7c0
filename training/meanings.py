"""What words that the embedded model never saw mean in words that it knows: other English ones and ten more languages.

The table is meanings.json beside this file. Its `meanings` are a known word or phrase and, a language each, the words
that mean it; `rot~` stands for the word with the language's own `endings`, of which `-` is none. An empty meaning is of
words that nothing here comes near, and which are no slips of others. `nothing` are words that say nothing of a picture,
so that nobody misses them. `glossary` makes a flat table of it, saved beside the
text encoder (models/glossary.py reads it).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from models.glossary import Glossary, folded
from training.phrases import COLORS, SCENES, SHAPES

TABLE = Path(__file__).with_suffix(".json")
CATEGORIES: dict[str, tuple[str, ...]] = {
    "shapes": tuple(SHAPES),
    "colours": tuple(COLORS),
    "scenes": tuple(SCENES),
}
"""What the model knows, as a person is told: how many of each, and their names."""


@cache
def glossary() -> Glossary:
    """The table as it is saved beside the text encoder."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    endings = {language: each.replace("-", "").split(" ") for language, each in table["endings"].items()}
    meanings: dict[str, str] = {}
    english = set[str]()
    for meaning, row in table["meanings"].items():
        for language, words in row.items():
            for word in words.split():
                stem, star, _ = word.partition("~")
                for ending in endings[language] if star else ("",):
                    meanings.setdefault(folded(stem + ending), meaning)
                    if language == "en" and meaning:
                        english.add(folded(stem + ending))
    meanings |= table["emoji"]
    nothing = {folded(word) for words in table["nothing"].values() for word in words.split()} - set(meanings)
    return Glossary(CATEGORIES, dict(sorted(meanings.items())), frozenset(nothing), frozenset(english))
