"""Prompts by frame in JSON: Deforum's settings files and AnimateDiff's prompt maps.

Such a file holds a hundred settings of another engine; what is taken are the prompts, what stands before and behind
all of them, the length and the frame rate that its frames count in. The script's notes say so.
"""

from collections.abc import Mapping

from app.config.json_tree import parse_json
from app.config.lengths import FASTEST_FPS
from app.config.nodes import Node
from app.errors import UsageMistake
from app.script.foreign_words import NEGATIVE_NOTE
from app.script.script import Script
from app.script.spans import Span, read_moment, script_of_spans

_PROMPTS = ("animation_prompts", "prompt_map", "prompts")
_AHEAD = ("animation_prompts_positive", "positive_prompts", "head_prompt")
_BEHIND = ("tail_prompt",)
_NEGATIVE = ("animation_prompts_negative", "negative_prompts", "n_prompt")


def holds_prompt_map(root: Mapping[str, Node]) -> bool:
    """Whether the entries of a document are prompts by frame, or have them among their settings."""
    return _are_times(root) or _prompts_of(root) is not None


def deforum_script(document: Node) -> Script:
    """Turn such a document into a script and check it; see holds_prompt_map.

    Raises:
        UsageMistake: no prompts, frames that are sums, values that cannot be, and what script_of_spans refuses.
    """
    root = document.entries
    if _are_times(root):
        return script_of_spans(_spans(document, None), document.file)
    prompts = _prompts_of(root)
    assert prompts is not None
    if prompts.kind == "text":
        prompts = _inner(prompts)
    if not prompts.entries:
        prompts.wrong('there is no prompt here. Write "0": "a text" and further frames.')
    fps = _fps(root.get("fps"))
    notes = ["Only prompts, frame rate and length are taken from this file; every other setting in it is not."]
    if fps is not None:
        notes.append(f"Its frames are counted at its own {fps:g} a second; the film plays at the model's.")
    if any(_words(root.get(name)) for name in _NEGATIVE):
        notes.append(NEGATIVE_NOTE.replace("stands behind --neg", "it does not want to see"))
    frames = root.get("max_frames")
    return script_of_spans(
        _spans(prompts, fps),
        document.file,
        end=None if frames is None else read_moment(frames.scalar("a frame"), frames.place, bare="f", fps=fps),
        notes=notes,
        head=_first(root, _AHEAD),
        tail=_first(root, _BEHIND),
    )


def _are_times(entries: Mapping[str, Node]) -> bool:
    """Whether every key is a frame or a time, or a sum of them."""
    texts = all(node.kind in ("text", "plain") for node in entries.values())
    return bool(entries) and texts and all(_is_time(key) for key in entries)


def _is_time(key: str) -> bool:
    text = key.strip()
    return text[:1].isdigit() or "max_f" in text or (text[:1] in ("-", "(") and any(map(str.isdigit, text)))


def _prompts_of(root: Mapping[str, Node]) -> Node | None:
    for name in _PROMPTS:
        node = root.get(name)
        if node is not None and (node.kind == "mapping" or (node.kind == "text" and node.written.lstrip()[:1] == "{")):
            return node
    return None


def _inner(node: Node) -> Node:
    """A mapping that was saved as a text, as older versions do."""
    try:
        inner = parse_json(node.written, node.file, first_line=node.line)
    except UsageMistake:
        inner = None
    if inner is None or inner.kind != "mapping":
        node.wrong('these prompts cannot be read. Write them as {"0": "a text", "30": "another"}.')
    return inner


def _spans(prompts: Node, fps: float | None) -> list[Span]:
    return [
        Span(read_moment(key, node.place, bare="f", fps=fps), None, " ".join(node.text().split()), node.place)
        for key, node in prompts.entries.items()
    ]


def _fps(node: Node | None) -> float | None:
    if node is None or node.kind == "null":
        return None
    fps = node.number()
    if not 1 <= fps <= FASTEST_FPS:
        node.wrong(f"{fps:g} is no frame rate. Give 1 to {FASTEST_FPS}.")
    return fps


def _first(root: Mapping[str, Node], names: tuple[str, ...]) -> str:
    return next((words for name in names if (words := _words(root.get(name)))), "")


def _words(node: Node | None) -> str:
    """A text, or the first of several; nothing where there is none."""
    if node is not None and node.kind == "list":
        node = next(iter(node.items), None)
    return "" if node is None or node.kind not in ("text", "plain") else " ".join(node.written.split())
