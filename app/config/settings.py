"""Where every setting of a film comes from: flags, overrides, a config file, the preset, the model's card.

People keep settings in a file and change one on the command line; what then holds must be plain, so each value
carries its origin from the line of the file to the printed table, and the whole is one frozen record that travels
with the film.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from app.config.aliases import ALIASES, GROUPS, primary
from app.config.file_settings import Files
from app.config.json_tree import parse_json
from app.config.lengths import Length, parse_length
from app.config.nodes import Node, read_text
from app.config.readers import size
from app.config.table import FLAGS_ONLY, READERS, Film
from app.config.toml_tree import parse_toml
from app.config.video_settings import Video
from app.errors import UsageMistake, printable, shorten, shorten_path
from parallel import read_plan
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import KNOBS, KnobError, apply_knobs, knob_values
from weights.card import read_card
from weights.find import get_model

_ONE_OF = (("prompt", "script", "prompts"), ("duration", "num_frames", "num_output_frames"))
"""Settings that answer the same question: one of them in one place, and a higher place's answer holds."""
_HIDES = {
    **{name: group for group in _ONE_OF for name in group},
    "num_inference_steps": ("denoising_step_list",),
    "denoising_step_list": ("num_inference_steps",),
    "transition": ("transition_chunks",),
}
"""Given in a higher place, a setting takes these away from the lower ones: they belonged to what it replaces."""
_FOLLOWS = {
    "num_inference_steps": "denoising_step_list",
    "denoising_step_list": "num_inference_steps",
    "global_sink": "recache_on_switch",
    "cascade": "parallel",
}


class Settings(BaseModel, Video, Files, Film):
    """Every setting that holds, by the names of the flags; values are checked by their readers on the way in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def length(self) -> Length | None:
        """Length of the film, in the unit it was given in; None = the script's."""
        if self.num_frames is not None:
            return parse_length(f"{self.num_frames}f")
        if self.num_output_frames is not None:
            return parse_length(f"{self.num_output_frames}l")
        return None if self.duration is None else parse_length(self.duration)


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it was given: `origin` for the table, `label` (place and name) for a mistake."""

    value: Any
    origin: str
    label: str


Layer = Mapping[str, Given]
"""What one place says, by primary names."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings that hold, `origin` of each ("flag", "override", "file a.yaml line 3", "preset longlive", "model
    card", "default"), those somebody gave, and the preset with its knobs applied."""

    settings: Settings
    origin: Mapping[str, str]
    given: frozenset[str]
    preset: Preset

    def table(self) -> list[tuple[str, str, str]]:
        """(name, value, origin) of every setting that has a value, for printing."""
        values = self.settings.model_dump(mode="json")
        shown = {name: value for name, value in values.items() if value not in (None, [])}
        return [
            (name, value if isinstance(value, str) else json.dumps(value), self.origin[name])
            for name, value in shown.items()
        ]


def given_by_flags(flags: Mapping[str, object]) -> Layer:
    """The flags that were given: those whose value is neither None nor an empty list."""
    layer: dict[str, Given] = {}
    for name, value in flags.items():
        if value is not None and value != []:
            _put(layer, name, value, "flag", f"--{name}")
    return _whole(layer)


def given_by_overrides(arguments: Sequence[str]) -> Layer:
    """`sink_size=3`, `cache.sink_size=3`, `steps=4`: what stands in front of = is what a config file would say.

    Raises:
        UsageMistake: no such setting, one given twice, or a value that cannot be.
    """
    layer: dict[str, Given] = {}
    for argument in arguments:
        path, _, value = argument.partition("=")
        shown = printable(shorten(path, 60))
        _put(layer, _setting_of(path.strip(), f"override {shown}"), value.strip(), "override", f"override {shown}")
    return _whole(layer)


def given_by_file(path: Path) -> Layer:
    """The settings in a .yaml, .json or .toml file; names may stand in the groups of app/config/aliases.py.

    Raises:
        UsageMistake: names file and line of what is wrong.
    """
    return parse_config(read_text(path), printable(shorten_path(path)))


def parse_config(text: str, file: str) -> Layer:
    """What given_by_file does with the text of a file; the ending of its name `file` says what it is written in."""
    ending = Path(file).suffix.lower()
    if ending not in (".yaml", ".yml", ".json", ".toml", ""):
        raise UsageMistake(f"{file} is no config file that Rivulet reads. Give a .yaml, .json or .toml.")
    if ending == ".json" or (not ending and text.lstrip().startswith("{")):
        root = parse_json(text, file)
    elif ending == ".toml":
        root = parse_toml(text, file)
    else:
        from app.config.yaml_tree import parse_yaml

        root = parse_yaml(text, file)
    if root.kind == "null" or (root.kind == "mapping" and not root.entries):
        raise UsageMistake(f"{file}: there is no setting in this file. Write for example seed: 7.")
    if root.kind != "mapping":
        raise UsageMistake(f"{_place(root)}: this is no list of settings. Write name: value, one a line.")
    layer: dict[str, Given] = {}
    _read_entries(root, "", layer)
    return _whole(layer)


def resolve(layers: Sequence[Layer]) -> Resolved:
    """What holds, of what several places say; the first layer is the strongest.

    Preset and model's card answer what nobody gave, then the defaults of Settings.

    Raises:
        UsageMistake: settings that do not go together, or a model that is not there, with the place of one of them.
    """
    found: dict[str, Given] = {}
    for layer in layers:
        hidden = {other for name in found for other in _HIDES.get(name, ())} | found.keys()
        found |= {name: given for name, given in layer.items() if name not in hidden}
    values = {name: given.value for name, given in found.items()}
    origin = dict.fromkeys(Settings.model_fields, "default") | {name: given.origin for name, given in found.items()}
    base = PRESETS[values.get("preset", Settings.model_fields["preset"].default)]
    try:
        preset = apply_knobs(base, _cascade_of(values) | {name: values[name] for name in KNOBS if name in values})
    except KnobError as error:
        raise UsageMistake(_with_place(found.get(error.knob), str(error))) from None
    own = knob_values(preset)
    for name, value in own.items():
        if name not in found:
            source = found.get(_FOLLOWS.get(name, ""))
            changed = value != knob_values(base).get(name)
            values[name], origin[name] = value, source.origin if changed and source else f"preset {base.name}"
    if "model" not in found:
        values["model"], origin["model"] = base.model, f"preset {base.name}"
    for name, value in _of_card(values["model"], found.get("model")).items():
        if name not in found:
            values[name], origin[name] = value, "model card"
    _check_transition(found)
    return Resolved(Settings(**values), origin, frozenset(found), preset)


def _cascade_of(values: Mapping[str, Any]) -> dict[str, object]:
    """Ranks that take chunks in turn need as many on their way, unless somebody said how many there are."""
    name, count = read_plan(values.get("parallel") or "single")
    ranks = count or values.get("gpus")
    return {"cascade": ranks} if name == "cascade" and ranks else {}


def _put(layer: dict[str, Given], name: str, value: object, origin: str, label: str) -> None:
    """Read a value into a layer; `size` becomes height and width."""
    if name == "size":
        height, width = size(label, value)
        pairs: dict[str, object] = {"height": height, "width": width}
    else:
        pairs = {name: READERS[name](label, value)}
    for key, read in pairs.items():
        if key in layer:
            raise UsageMistake(f"The {key} is given twice, as {layer[key].label} and {label}. Keep one of them.")
        layer[key] = Given(read, origin, label)


def _whole(layer: dict[str, Given]) -> Layer:
    """The layer, unless it answers one question twice."""
    for group in _ONE_OF:
        both = [layer[name].label for name in group if name in layer]
        if len(both) > 1:
            what = "What to show" if "script" in group else "The length"
            raise UsageMistake(f"{what} is given twice, as {both[0]} and {both[1]}. Keep one of them.")
    return layer


def _read_entries(node: Node, group: str, layer: dict[str, Given]) -> None:
    for key, entry in node.entries.items():
        path = f"{group}.{key}" if group else key
        shown = printable(shorten(path, 60))
        label = f"{_place(entry)}: {shown}"
        if entry.kind == "mapping" and not group and key in GROUPS:
            _read_entries(entry, key, layer)
        else:
            name = _setting_of(path, label)
            if entry.kind == "mapping":
                raise UsageMistake(f"{label} has entries below it, where one value belongs. Write {shown}: value.")
            if entry.kind != "null":
                place = f"file {entry.file} line {entry.line}" if entry.line else f"file {entry.file}"
                _put(layer, name, _plain(entry), place, label)


def _setting_of(path: str, label: str) -> str:
    """The primary name of a setting as somebody wrote it, with its group or without."""
    group, dot, name = path.rpartition(".")
    known: Mapping[str, str] = GROUPS.get(group.replace("-", "_"), {})
    setting = known.get(primary(name), primary(name))
    if setting == "size" and not dot:
        return setting
    if setting in READERS and (not dot or setting in known.values()):
        return setting
    if setting in FLAGS_ONLY and not dot:
        raise UsageMistake(f"{label} is no setting but a flag. Add --{setting} to the command, and take it out here.")
    if path in ("shots", "defaults", "version"):
        raise UsageMistake(f"{label} belongs into a script. Give this file with --script instead of --config.")
    if path in GROUPS:
        raise UsageMistake(f"{label} is a group of settings. Write {path}: {{{next(iter(GROUPS[path]))}: value}}.")
    paths = [f"{group}.{name}" for group, names in GROUPS.items() for name in names]
    near = get_close_matches(path[:80].lower(), [*READERS, "size", *ALIASES, *paths], n=1, cutoff=0.6)
    near = near or get_close_matches(name[:80].lower(), READERS, n=1, cutoff=0.6)
    if not near:
        raise UsageMistake(
            f"{label} is no setting that Rivulet knows. Take it out; `rivulet render --help_all` lists them."
        )
    raise UsageMistake(f"{label} is no setting that Rivulet knows; did you mean {near[0]}? Write that, or take it out.")


def _plain(node: Node) -> object:
    if node.kind == "list":
        return [_plain(item) for item in node.items]
    return node.written == "true" if node.kind == "bool" else node.written


def _place(node: Node) -> str:
    return f"{node.file}, line {node.line}" if node.line else node.file


def _of_card(model: str, given: Given | None) -> dict[str, Any]:
    """Size and frame rate from the model's card; whoever loads a model without one tells what is wrong with it."""
    try:
        spec = get_model(model)
    except (OSError, ValueError) as error:
        why = f"{shorten(model, 40)} is no path ({getattr(error, 'strerror', '')}). Give a name or a folder."
        raise UsageMistake(_with_place(given, why if isinstance(error, OSError) else str(error))) from None
    if spec.transformer.where == "hub":
        return {"height": spec.size[0], "width": spec.size[1], "fps": str(spec.fps)}
    try:
        card = read_card(Path(spec.transformer.file).parent)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageMistake(_with_place(given, str(error))) from None
    height, width = card["sizes"][0]
    return {"height": height, "width": width, "fps": str(card.get("fps", 16))}


def _check_transition(found: Mapping[str, Given]) -> None:
    chunks, kind = found.get("transition_chunks"), found.get("transition")
    if chunks is not None and (kind is None or kind.value != "soft"):
        name = "recache" if kind is None else kind.value
        raise UsageMistake(
            _with_place(chunks, f"a {name} transition has no length; leave out transition_chunks, or use soft.")
        )


def _with_place(given: Given | None, sentence: str) -> str:
    return sentence if given is None else f"{given.label}: {sentence}"
