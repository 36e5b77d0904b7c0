"""The command line as a person meets it: quick help, one sentence for a mistake, the same film twice."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import app
from app.cli.main import main, normalise
from app.errors import UsageMistake, explain, printable
from app.record import sidecar
from pipelines.presets import PRESETS
from tests.app_doubles import save_tiny_model
from tests.media.test_video import decode
from weights.catalog import MODELS

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = Path(MODELS["embedded"].transformer.file).parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of a few kilobytes, with random weights."""
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------ help and lists


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from app.cli.main import main\n"
        "commands = ('web', 'render', 'v2v', 'presets', 'bench')\n"
        "for words in (['--help'], *([command, '--help'] for command in commands),\n"
        "              ['render', '--help_all']):\n"
        "    assert main(words) == 0, words\n"
        "assert main(['render', '--no-such-flag']) == 2\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'av', 'numpy', 'yaml'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: rivulet") == 7
    assert "--transition_chunks" in done.stdout
    assert "--transition-chunks" not in done.stdout


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("web", "render", "presets", "bench"))


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "app", "rendr"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "rivulet: There is no command 'rendr': choose from web, render, v2v, replay, presets, profile, doctor, "
        "bench, models; did you mean render?\n"
    )


def test_presets_are_listed_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PRESETS)
    assert main(["presets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(PRESETS)
    assert {row["name"]: row["window"] for row in rows}["self-forcing"] == 21
    assert all(row["at_hand"] is False for row in rows if row["model"] != "embedded")  # tests have no network


def test_versions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert {"rivulet", "torch", "python"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        (["--num-frames", "9"], ["--num_frames", "9"]),
        (["--num-frames=9-3"], ["--num_frames=9-3"]),
        (["a-b", "-o", "x-y.mp4"], ["a-b", "-o", "x-y.mp4"]),
        (["render", "--debug"], ["--debug", "render"]),
        (["--a-b", "--", "--c-d", "--debug"], ["--a_b", "--", "--c-d", "--debug"]),
    ],
)
def test_flags_may_be_written_either_way(written: list[str], understood: list[str]) -> None:
    assert normalise(written) == understood


# ------------------------------------------------------------------ mistakes


MISTAKES: dict[str, tuple[list[str], str]] = {
    "command": (["rendor"], "did you mean render?"),
    "command not near": (["zzzz"], "choose from web, render, v2v, replay, presets, profile, doctor, bench"),
    "prompt as command": (["a red ball"], 'rivulet render "a red ball"'),
    "flag": (["render", "a ball", "--sede", "3"], "no flag --sede; did you mean"),
    "flag not near": (["render", "a ball", "--qqq"], "See `rivulet render --help`"),
    "flag of root": (["--qqq", "render"], "See `rivulet --help`"),
    "short flag": (["render", "a ball", "-q"], "no flag -q"),
    "flag without value": (["render", "a ball", "--seed"], "requires an argument"),
    "presets with words": (["presets", "now"], "See `rivulet presets --help`"),
    "no prompt": (["render"], "There is no prompt"),
    "empty prompt": (["render", ""], "A prompt is empty"),
    "blank prompt": (["render", "a ball", " \t\n"], "A prompt is empty"),
    "NUL in the prompt": (["render", "a \0 ball"], "not text"),
    "broken bytes in the prompt": (["render", "a \udcff ball"], "not text"),
    "preset": (["render", "a ball", "--preset", "embeded"], "did you mean embedded?"),
    "preset not near": (["render", "a ball", "--preset", "!"], "choose from embedded"),
    "preset of bench": (["bench", "stream", "--preset", "longlife"], "did you mean longlive"),
    "benchmark": (["bench", "strem"], "did you mean stream?"),
    "transition": (["render", "a ball", "--transition", "sofd"], "did you mean soft?"),
    "length of a cut": (["render", "a ball", "--transition", "cut", "--transition_chunks", "2"], "has no length"),
    "soft zero": (["render", "a ball", "--transition", "soft", "--transition_chunks", "0"], "1 or more"),
    "model": (["render", "a ball", "--model", "embeded"], "did you mean 'embedded'?"),
    "model path": (["render", "a ball", "--model", "/no/such/model"], "No model '/no/such/model'"),
    "NUL in the model": (["render", "a ball", "--model", "a\0b"], "NUL"),
    "empty model": (["render", "a ball", "--model", ""], "empty"),
    "device": (["render", "a ball", "--device", "cud"], "did you mean cuda?"),
    "zero duration": (["render", "a ball", "--duration", "0s"], "above zero"),
    "negative duration": (["render", "a ball", "--duration", "-5s"], "above zero"),
    "huge duration": (["render", "a ball", "--duration", "999999999s"], "at most 24h"),
    "garbled duration": (["render", "a ball", "--duration", "soon"], "Write it like 20s"),
    "zero frames": (["render", "a ball", "--num_frames", "0"], "above zero"),
    "negative frames": (["render", "a ball", "--num-frames", "-3"], "above zero"),
    "frames in words": (["render", "a ball", "--num_frames", "many"], "valid int"),
    "length twice": (["render", "a ball", "--duration", "2s", "--num_frames", "9"], "given twice"),
    "huge fps": (["render", "a ball", "--fps", "1e9999999"], "for example 16"),
    "size": (["render", "a ball", "--size", "big"], "width x height"),
    "size of nothing": (["render", "a ball", "--size", "0x0"], "Give 8 to 4096"),
    "huge size": (["render", "a ball", "--size", "99999x99999"], "Give 8 to 4096"),
    "size twice": (["render", "a ball", "--size", "96x96", "--height", "96"], "given twice"),
    "negative height": (["render", "a ball", "--height", "-96"], "Give 8 to 4096"),
    "seed": (["render", "a ball", "--seed", "lucky"], "valid int"),
    "seed below": (["render", "a ball", "--seed", "-2"], "-1 to draw one"),
    "seed above": (["render", "a ball", "--seed", str(2**63)], "out of range"),
    "fps": (["render", "a ball", "--fps", "fast"], "for example 16"),
    "no fps": (["render", "a ball", "--fps", "0"], "Give 1 to 240"),
    "fps by zero": (["render", "a ball", "--fps", "1/0"], "for example 16"),
    "crf": (["render", "a ball", "--crf", "52"], "less than or equal to 51"),
    "scale": (["render", "a ball", "--scale", "-1"], "greater than or equal to 0"),
    "threads": (["render", "a ball", "--threads", "0"], "greater than or equal to 1"),
    "output folder": (["render", "a ball", "-o", "."], "is a folder"),
    "output nowhere": (["render", "a ball", "-o", "no/such/film.mp4"], "no folder"),
    "output unwritable": (["render", "a ball", "-o", "/proc/film.mp4"], "cannot be written"),
    "output of another kind": (["render", "a ball", "-o", "film.avi"], "does not end in .mp4"),
    "NUL in the output": (["render", "a ball", "-o", "a\0.mp4"], "NUL byte"),
    "bench file in a folder": (["bench", "startup", "--json", "."], "is a folder"),
    "bench file nowhere": (["bench", "startup", "--json", "no/such.json"], "no folder"),
    "bench seconds": (["bench", "stream", "--seconds", "0"], "See `rivulet bench stream --help`"),
}


def told_once(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr: one line of ours and no traceback."""
    said = capsys.readouterr()
    assert said.err.startswith("rivulet: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.out + said.err
    return said.err


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_one_action(
    mistake: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = MISTAKES[mistake]
    assert main(arguments) == 2
    assert said in told_once(capsys)
    assert not list(here.iterdir())


def test_an_existing_film_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out.mp4").write_text("precious")
    assert main(["render", "a ball"]) == 2
    assert "--overwrite" in told_once(capsys)
    assert (here / "out.mp4").read_text() == "precious"


def test_debug_shows_the_traceback_as_well(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "a ball", "--duration", "soon", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.splitlines()[-1].startswith("rivulet: --duration: This is not a duration")


# Mistakes that only the engine can see: they need a model to be opened.


def truncate(model: Path) -> None:
    file = next((model / "transformer").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def cut_to_nothing(model: Path) -> None:
    next((model / "autoencoder").glob("*.safetensors")).write_bytes(b"")


def pickle_it(model: Path) -> None:
    file = next((model / "transformer").glob("*.safetensors"))
    file.write_bytes(pickle.dumps({"a": print}))


def pickle_alone(model: Path) -> None:
    next((model / "text_encoder").glob("*.safetensors")).unlink()
    (model / "text_encoder" / "pytorch_model.bin").write_bytes(pickle.dumps({"a": print}))


def change_config(model: Path) -> None:
    config = model / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"ffn_dim": 32', '"ffn_dim": 48'))


def break_config(model: Path) -> None:
    (model / "transformer" / "config.json").write_text("{")


def drop_card(model: Path) -> None:
    (model / "card.json").unlink()


def break_card(model: Path) -> None:
    (model / "card.json").write_bytes(b"\xff\xfe")


def another_plan(model: Path) -> None:
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps(card | {"plans": ["diagonal"]}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "safetensors"),
        (cut_to_nothing, "safetensors"),
        (pickle_it, "safetensors"),
        (pickle_alone, "no .safetensors"),
        (change_config, "does not fit"),
        (break_config, "not JSON"),
        (drop_card, "card.json"),
        (break_card, "card.json"),
        (another_plan, "--untrained"),
    ],
)
def test_a_damaged_model_is_a_mistake_that_says_which_file(
    damage: Callable[[Path], None], said: str, tiny: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny, here / "model")
    damage(here / "model")
    assert main(["render", "a ball", "--model", "model", "--duration", "1s"]) == 2
    assert said in told_once(capsys)
    assert [file.name for file in here.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "64x64"], "32x32"),
        (["--size", "33x32"], "32x32"),
        (["--size", "40x40", "--untrained"], "multiples of 16"),
        (["snow", "sea", "a star"], "Give fewer prompts, or --duration"),
        (["--transition", "soft", "--transition_chunks", "9", "snow"], "--transition_chunks 1 or less"),
        (["word " * 17], "shorten it"),
        (["--device", "cuda"], "use the device cpu"),
    ],
    ids=["size", "odd size", "indivisible size", "too short", "transition too long", "prompt too long", "no cuda"],
)
def test_what_only_the_engine_can_see_is_a_mistake_too(
    arguments: list[str], said: str, tiny: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert main(["render", "a ball", "--model", str(tiny), "--duration", "27f", *arguments]) == 2
    assert said in told_once(capsys)
    assert not list(here.iterdir())


# ------------------------------------------------------------------ the real thing


def test_the_same_command_twice_makes_the_same_film(tiny: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    threads = torch.get_num_threads()  # the flag sets torch's number for the whole process: leave it as it is
    command = ["render", "a red ball over the sea", "a blue star over snow", "--duration", "3s", "--model", str(tiny)]
    records: list[sidecar.Sidecar] = []
    for name, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        assert main([*command, "-o", f"{name}.mp4", "--seed", seed, "--threads", str(threads)]) == 0
        records.append(sidecar.read(here / f"{name}.json"))
    one, two, three = records
    assert decode(here / "one.mp4").shape == (48, 384, 384, 3)
    assert (here / "one.mp4").read_bytes() == (here / "two.mp4").read_bytes()
    assert one.film.sha256 == two.film.sha256 != three.film.sha256
    assert [chunk.sha256 for chunk in one.chunks] == [chunk.sha256 for chunk in two.chunks]
    assert one.config.threads == threads
    assert one.model == two.model
    cache = one.config.system["cache"]
    assert (cache["kind"], cache["window"], cache["sink"]) == ("SinkWindow", 12, 3)
    assert len(one.model.sha256) == 64
    assert [shot.prompt for shot in one.shots] == command[1:3]
    assert "unknown" not in capsys.readouterr().out


@pytest.mark.skipif(not (EMBEDDED / "card.json").is_file(), reason="weights/embedded is not in this checkout")
def test_the_embedded_model_films_two_prompts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "render",
        "a red ball bounces over the sea",
        "a blue star over snow",
        "--duration",
        "2s",
        "--threads",
        "1",
    ]
    for name in ("one", "two"):
        assert main([*command, "-o", f"{name}.mp4", "--seed", "7"]) == 0
    one, two = (sidecar.read(here / f"{name}.json") for name in ("one", "two"))
    frames = decode(here / "one.mp4")
    assert frames.shape[0] == 32
    assert min(frames.shape[1:3]) >= 96
    assert one.film.sha256 == two.film.sha256
    assert one.model.name == "embedded"
    assert frames[1].std() > 10  # a picture, not a grey card
    assert "does not know" not in capsys.readouterr().out


# ------------------------------------------------------------------ errors and the guard


def test_a_mixture_of_packages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    with pytest.raises(ImportError, match=r"`import models` finds .*Remove the other entry"):
        app.require_own_packages(tmp_path)
    app.require_own_packages()


def test_only_our_own_value_errors_are_the_persons_fault() -> None:
    def explained(act: Callable[[], object]) -> tuple[str, int]:
        try:
            act()
        except ValueError as error:
            return explain(error)
        raise AssertionError("nothing was raised")

    assert explained(lambda: Path("a\0b").stat())[1] == 1  # raised inside Python, not by us
    message, code = explained(lambda: sidecar.Sidecar.model_validate_json("{}"))  # pydantic's own, a ValueError too
    assert code == 1
    assert "--debug" in message
    assert explained(lambda: app_raises())[1] == 2
    assert explain(UsageMistake("This. That."))[1] == 2


def app_raises() -> None:
    from pipelines.presets import get_preset

    get_preset("nothing like it")


def test_quoted_text_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\udcff ü") == "a\\x1b[2Jb\\udcff ü"
