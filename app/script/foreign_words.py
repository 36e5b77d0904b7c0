"""What other tools work out inside a prompt: wildcards, adapters, emphasis, macros; refused by name, never filmed.

To a text encoder `{red|blue}` and `(ball:1.3)` are words and numbers like any others, and the picture would follow
them. What is said explicitly (`--prompt`, a shot list) is not looked at: there a text means what it says.
"""

import re

from app.config.nodes import quote
from app.errors import UsageMistake
from app.script.script import MAX_CHARACTERS

_WORDS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), what, action)
    for pattern, what, action in (
        (r"^!.*", "a macro line", "Write the prompts out, one a line"),
        (r"^```.*", "a code fence", "Keep the prompts alone"),
        (r"^negative[ _]prompt\s*:.*", "a negative prompt", "Take it out; there is none here"),
        (r"^steps:\s*\d+,.*", "a line of settings", "Take it out; settings go behind the script as name=value"),
        (r"__[\w/*-]+__", "a wildcard", "Write one of its words"),
        (r"\$?\{[^{}]*\}", "a choice or a variable", "Write one of its words"),
        (r"<\w+:[^<>]*>", "an adapter or embedding tag", "Take it out of the text"),
        (r"\bembedding:\w+", "an embedding", "Take it out of the text"),
        (r"\((?=[^()]*[^\W\d])[^():]*:\s?(\d{0,3}\.\d{1,6}|(?<=[^\W\d]:)\d)\s?\)", "emphasis", "Keep the words alone"),
        (r"\[[^\[\]:]*:[^\[\]:]*:\s?\d{0,6}\.?\d{1,6}\s?\]", "prompt editing", "Make a shot of each text"),
        (r"\[[^\[\]|]+\|[^\[\]]*\]", "alternation", "Write one of its texts"),
        (r"`[^`]*`", "a value schedule", "Take it out of the text"),
        (r"(?<!\S)--[a-z]\w*", "a flag", "Take it out of the text"),
    )
)
_NEGATIVE = re.compile(r"--neg(?:ative)?(?:_prompt)?\b.*", re.IGNORECASE | re.DOTALL)
NEGATIVE_NOTE = "What stands behind --neg is left out: there are no negative prompts here."


def refuse_foreign_words(text: str, place: str) -> None:
    """Refuse a prompt that another tool would still change.

    Raises:
        UsageMistake: the first such words in it, and what they are.
    """
    for pattern, what, action in _WORDS:
        if found := pattern.search(text[:MAX_CHARACTERS]):
            raise UsageMistake(f"{place}: {quote(found[0])} is {what} of another tool, not read here. {action}.")


def without_negative(text: str) -> tuple[str, bool]:
    """A prompt without what Deforum's users write behind `--neg`, and whether there was any."""
    found = _NEGATIVE.search(text)
    return (text[: found.start()].rstrip(), True) if found else (text, False)
