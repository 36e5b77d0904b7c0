"""The command `rivulet models`: the weights that there are, which of them are here, and how the others come."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import option
from app.config.readers import choose
from app.config.table import TABLE
from app.errors import EXIT_FAILURE, EXIT_OK, UsageMistake, printable
from weights.catalog import MODELS, TINY, ModelSpec, WeightSpec
from weights.find import get_model

models = typer.Typer(name="models", help="List, fetch, check and remove weights.", rich_markup_mode=None)

EPILOG = "Nothing is downloaded unless you pull it, or render with it. HF_ENDPOINT, or --endpoint, names a mirror."

ModelsDir = Annotated[str | None, option(TABLE["models_dir"])]
Offline = Annotated[bool, option(TABLE["offline"])]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", help="A mirror of huggingface.co.", show_default=False)
]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="As `rivulet models list` names it.")]


@models.callback(invoke_without_command=True, epilog=EPILOG)
def root(context: typer.Context) -> None:
    """List the models when nothing else is asked for."""
    if context.invoked_subcommand is None:
        list_command()


@models.command("list", short_help="All models: which are here, and which presets they serve.")
def list_command(models_dir: ModelsDir = None, offline: Offline = False, as_json: AsJson = False) -> int:
    """List the models. It asks no network, with or without --offline."""
    from app.loading.inventory import row_of

    rows = [row_of(spec, _folder(models_dir)) for spec in MODELS.values()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return EXIT_OK
    from rich.table import Column, Table

    width = max(len(row["name"]) for row in rows)
    table = Table(Column("model", no_wrap=True, min_width=width), "here", "on disk", "weights", "tick", "presets")
    for row in rows:
        table.add_row(
            row["name"],
            {"here": "yes", "part": "in part", "away": "-"}[row["state"]],
            _gigabytes(row["bytes"]) if row["bytes"] else "-",
            "-" if row["weights_bytes"] is None else _gigabytes(row["weights_bytes"]),
            "yes" if row["licence_tick"] else "-",
            ", ".join(row["presets"]) or "-",
        )
    console = _console()
    console.print(table)
    console.print(
        "weights: of the transformer in bfloat16, counted. tick: its licence has to be accepted before a download. "
        "Next: rivulet models show MODEL",
        soft_wrap=True,
    )
    return EXIT_OK


@models.command("show", short_help="One model: parts, licences, places, what it needs.")
def show_command(
    name: Name,
    models_dir: ModelsDir = None,
    offline: Offline = False,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> int:
    """Tell everything of one model, of the catalogue or of this disk. It asks no network."""
    from app.loading.inventory import makes, parts_of, row_of
    from app.loading.verdict import verdict_on

    folder = _folder(models_dir)
    model = _model(name)
    parts = parts_of(model, folder, endpoint)
    here, ((height, width), fps) = verdict_on(model, models_dir=folder), makes(model)
    told: dict[str, Any] = row_of(model, folder) | {
        "here": None if here is None else here.as_data(),
        "about": model.about,
        "size": [height, width],
        "fps": fps,
        "parts": parts,
    }
    if as_json:
        print(json.dumps(told, indent=2))
        return EXIT_OK
    print(printable(f"{model.name}: {model.about}"))
    presets = ", ".join(str(each) for each in row_of(model, folder)["presets"])
    needs = "" if told["weights_bytes"] is None else f", weights {_gigabytes(told['weights_bytes'])} in bfloat16"
    print(f"makes {width}x{height} at {fps} fps{needs}; presets: {presets or 'none of its own'}")
    if here is not None:
        print(printable(f"here, {here.preset} on {here.device}: {here.told}"))
    for line in _fits(model):
        print(line)
    for part in parts:
        tick = "; asks for a tick" if part["licence_tick"] else ""
        print(printable(f"{part['kind']} {part['name']} ({part['licence']}{tick})"))
        if part["path"] is not None:
            print(printable(f"  here: {part['path']} ({_gigabytes(part['bytes'])})"))
        else:
            print(printable(f"  not here; rivulet models pull {model.name}, or: {part['fetch']}"))
    return EXIT_OK


@models.command("pull", short_help="Fetch a model: with checksums, and on from where a cut one ended.")
def pull_command(
    name: Name,
    models_dir: ModelsDir = None,
    offline: Offline = False,
    endpoint: Endpoint = None,
    accept_licence: Annotated[list[str] | None, option(TABLE["accept_licence"])] = None,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="Ask for sizes, and fetch nothing.")] = False,
) -> int:
    """Fetch the weights of a model that are not here. A cut download goes on when it is asked for again."""
    from weights.hub import HuggingFace, must_have_room, pull, wanted
    from weights.store import place_of

    if offline:
        raise UsageMistake("--offline downloads nothing, and pull downloads. Leave out one of them.")
    folder, hub = _folder(models_dir), HuggingFace(endpoint)
    specs = (
        [TINY_BY_NAME[name]] if name in TINY_BY_NAME else [each for each in _known(name).weights if each.where == "hub"]
    )
    missing = [spec for spec in specs if place_of(spec, folder) is None]
    accepted = set(accept_licence or ())
    refused = [spec for spec in missing if spec.licence_tick and not {name, spec.name} & accepted]
    if refused and not dry_run:  # all of them, before the first byte
        licences = "; ".join(dict.fromkeys(f"{spec.name}: {spec.licence} ({spec.page})" for spec in refused))
        raise UsageMistake(f"{name} asks for your consent ({licences}). If you accept, add --accept_licence {name}.")
    if not missing:
        print(f"All of {name} is here.")
        return EXIT_OK
    sizes = {spec.name: sum(each.size for each in _asked(spec, hub, wanted)) for spec in missing}
    for spec in missing:
        print(printable(f"{spec.name}: {_gigabytes(sizes[spec.name])} from {spec.page}"))
    if name in MODELS:
        from app.loading.verdict import verdict_on

        if (here := verdict_on(MODELS[name], models_dir=folder)) is not None:
            print(printable(f"On this machine, {here.preset} on {here.device}: {here.told}."))
    must_have_room(name, [each for spec in missing for each in _asked(spec, hub, wanted)], folder)
    if dry_run:
        return EXIT_OK
    for spec in missing:
        progress = _Progress()
        place = pull(spec, folder, hub, licence_accepted=True, report=progress)
        progress.end()
        print(printable(f"{spec.name} is here: {place}"))
    return EXIT_OK


@models.command("verify", short_help="Read what is here and hold it against its checksums.")
def verify_command(
    name: Annotated[str | None, typer.Argument(metavar="MODEL", help="One of them; all that are here without.")] = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> int:
    """Check the weights that are here; exit code 1 if some are not what was fetched. It asks no network."""
    from weights.store import place_of, verify

    folder = _folder(models_dir)
    chosen = MODELS.values() if name is None else [_model(name)]
    specs = dict.fromkeys(
        spec for model in chosen for spec in model.weights if name is not None or place_of(spec, folder) is not None
    )
    wrong = False
    for spec in specs:
        found = verify(spec, folder)
        wrong = wrong or found.sound is False
        print(
            printable(
                f"{ {True: 'proven', False: 'WRONG', None: 'not proven'}[found.sound] }: {spec.name}: {found.told}"
            )
        )
    return EXIT_FAILURE if wrong else EXIT_OK


@models.command("path", short_help="Where weights are, or would be.")
def path_command(
    name: Annotated[str | None, typer.Argument(metavar="MODEL", help="One of them; the folder without.")] = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> int:
    """Print the folder of all downloads, or a line for each part of a model."""
    from weights.hub import hub_cache
    from weights.store import place_of

    folder = _folder(models_dir)
    root = hub_cache() if folder is None else folder
    if name is None:
        print(printable(str(root)))
        return EXIT_OK
    for spec in _model(name).weights:
        place = place_of(spec, folder)
        print(printable(f"{spec.kind}\t{place if place is not None else f'not here ({root})'}"))
    return EXIT_OK


@models.command("import", short_help="Put a file you have where a model looks for it.")
def import_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a component's folder.")],
    name: Annotated[str, typer.Option("--as", metavar="MODEL", help="The model that it belongs to.")],
    models_dir: ModelsDir = None,
) -> int:
    """Link or copy weights that came another way into --models_dir; what they are, their tensors say.

    Without an import, --model PATH films with a file where it lies.
    """
    from weights.store import take_in

    folder = _folder(models_dir)
    if folder is None:
        raise UsageMistake("An import needs a folder for models. Give it with --models_dir FOLDER, here and to render.")
    if not path.exists():
        raise UsageMistake(f"There is no {printable(str(path))}. Give a file, or a component's folder.")
    spec, place = take_in(path, _known(name), folder)
    print(printable(f"{path} is the {spec.kind} of {name}: {place}"))
    return EXIT_OK


@models.command("remove", short_help="Delete a model's weights from this disk.")
def remove_command(
    name: Name,
    models_dir: ModelsDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it they are only listed.")] = False,
) -> int:
    """Delete the weights of a model that no other model here needs."""
    from weights.store import removable, remove, size_of

    folder = _folder(models_dir)
    found = list(removable(_known(name), folder))
    if not found:
        print(f"Nothing of {name} is here that no other model needs.")
        return EXIT_OK
    for spec, place in found:
        print(printable(f"{'removing' if yes else 'would remove'} {spec.name}: {place} ({_gigabytes(size_of(place))})"))
    if not yes:
        raise UsageMistake(f"Nothing was removed. To delete them: rivulet models remove {name} --yes")
    for spec, _ in found:
        remove(spec, folder)
    return EXIT_OK


TINY_BY_NAME = {spec.name: spec for spec in TINY.values()}
"""Tiny autoencoders, which `pull` knows beside the models."""


CARDS = (8, 12, 16, 24, 48, 80)
"""Gigabytes of the cards that people have."""


def _fits(model: ModelSpec) -> list[str]:
    """What the model's first preset needs on cards of several sizes, a line each."""
    if model.tokenizer is None:
        return []
    from app.loading.fitting import needs_of
    from app.loading.verdict import preset_for
    from pipelines.fit import verdict

    preset = preset_for(model)

    needs = needs_of(model, preset, model.size)
    return [f"{card:>3} GB, {preset.name}: {verdict(model.name, needs, card * 10**9)}" for card in CARDS]


def _asked(spec: WeightSpec, hub: Any, wanted: Any) -> Any:
    try:
        return wanted(spec, hub.files(spec.repo))
    except ValueError:
        raise
    except Exception as error:  # of the hub or the network
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UsageMistake(
            f"{spec.page} cannot be asked ({type(error).__name__}: {reason}). Check the network, or give a mirror with "
            "--endpoint."
        ) from error


def _known(name: str) -> ModelSpec:
    return MODELS[choose(name, list(MODELS), "model")]


def _model(name: str) -> ModelSpec:
    return MODELS[name] if name in MODELS else get_model(name)


def _folder(models_dir: str | None) -> Path | None:
    return None if models_dir is None else Path(models_dir).expanduser()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


class _Progress:
    """A line of how far a download is, with its speed and what is left, once a second."""

    def __init__(self) -> None:
        self._told = 0.0

    def __call__(self, path: str, done: int, total: int, rate: float) -> None:
        now = time.monotonic()
        if now - self._told < 1 and done < total:
            return
        self._told = now
        left = f", {(total - done) / rate:.0f} s left" if rate and total > done else ""
        line = f"{path}: {_gigabytes(done)} of {_gigabytes(total)}, {_gigabytes(int(rate))}/s{left}"
        print(printable(line), end="\r", flush=True)

    def end(self) -> None:
        print()
