"""The shape of the house: who may import whom, what stays torch-free, how long files are, what pages say.

These rules are the ones a reader relies on without looking; a rule that nothing checks is a wish.
"""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.types import Row, Slot, Slots

ROOT = Path(__file__).resolve().parent.parent

# package -> what it may import of ours: a package with everything in it, or a single module.
ALLOWED: dict[str, set[str]] = {
    "app": {
        "pipelines",
        "weights",
        "schedulers",
        "cache",
        "cache.types",
        "parallel",
    },  # of the last ones only names
    "pipelines": {"models", "schedulers", "cache", "parallel", "weights"},
    "parallel": {"models", "schedulers", "cache"},
    "models": {"cache"},
    "schedulers": {"cache.types", "cache.precision"},
    "cache": set(),
    "weights": set(),
    "training": {"pipelines", "models", "schedulers", "cache", "parallel", "weights", "benchmarks"},
    "benchmarks": {"app", "pipelines", "models", "schedulers", "cache", "parallel", "weights", "training"},
}
LAZY = {  # allowed inside functions of these files, never at the top of a module
    ("app", "benchmarks"): "app/cli/bench.py",
    ("app", "training"): "app/cli/profile.py",
}
NAMES_ONLY = {
    ("app", "schedulers"),
    ("app", "cache"),
    ("app", "parallel"),
}  # the package itself, not its modules
FORBIDDEN_NAMES = {"utils", "util", "common", "core", "helpers", "helper", "misc"}
MAX_LINES, MAX_LINES_MODELS = 400, 600


def sources(*packages: str) -> list[Path]:
    """Every module of our packages (all of them unless named), tests not included."""
    return sorted(path for package in packages or ALLOWED for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[tuple[str, bool, int]]:
    """Every imported module of ours: (dotted name, whether inside a function, line)."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name_of(path)}:{child.lineno} imports relatively"
                assert child.module is not None
                for alias in child.names:  # `from cache import kv` imports the module cache.kv
                    module = f"{child.module}.{alias.name}"
                    is_module = (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
                    yield (module if is_module else child.module), lazy, child.lineno
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, inside)

    return (
        (module, lazy, line) for module, lazy, line in walk(tree_of(path), False) if module.split(".")[0] in ALLOWED
    )


def may_import(file: str, module: str, lazy: bool) -> bool:
    package = file.split("/")[0]
    target = module.split(".")[0]
    if target == package or module in ALLOWED[package]:
        return True
    if (package, target) in LAZY:
        return lazy and file == LAZY[package, target]
    return target in ALLOWED[package] and (package, target) not in NAMES_ONLY


def test_imports_point_down_only() -> None:
    files = sources()
    assert len(files) > 20
    seen = [(path, *found) for path in files for found in imports_of(path)]
    assert len(seen) > 20
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path, module, lazy, line in seen
        if not may_import(name_of(path), module, lazy)
    ]
    assert not wrong, "the table in docs/architecture.md forbids:\n" + "\n".join(wrong)


def test_the_import_rule_can_fail() -> None:
    for package, module, lazy, expected in (
        ("cache", "pipelines.types", False, False),
        ("schedulers", "cache.types", False, True),
        ("schedulers", "cache.kv", False, False),
        ("schedulers", "cache", False, False),
        ("models", "cache.rope", False, True),
        ("weights", "models.wan", True, False),
        ("app", "cache", False, True),
        ("app", "cache.kv", True, False),
        ("app", "training.world", False, False),
        ("app/cli/profile.py", "training.world", True, True),
        ("app/cli/bench.py", "training.world", True, False),
        ("app", "models.wan", True, False),
        ("training", "app.media.mp4", False, False),
    ):
        assert may_import(package, module, lazy) is expected, (package, module)


# room of app/ -> which other rooms it may import; a file at the top of app/ is a room of its own. `cli` may all.
ROOMS: dict[str, set[str]] = {
    "config": set(),
    "media": {"config"},
    "loading": {"config"},
    "script": {"config"},
    "record": {"media", "script", "config", "loading"},
    "render": {"record", "media", "script", "config", "loading"},
    "live": {"record", "media", "config", "loading"},
}
ROOMS["jobs"] = {"render"} | ROOMS["render"]
ROOMS["cluster"] = {"render", "live"} | ROOMS["render"] | ROOMS["live"]
ROOMS["server"] = {"jobs", "live", "cluster"} | ROOMS["jobs"] | ROOMS["cluster"]
ROOMS["cli"] = {"server"} | ROOMS["server"]
EVERYBODYS = {"errors", "atomic"}


def room_of(module: str) -> str:
    """The room of `app.live.session` is live; of `app.errors`, errors."""
    return module.split(".")[1] if "." in module else "app"


def test_the_rooms_of_app_import_downwards_only() -> None:
    seen = [
        (path, room_of(name_of(path).removesuffix(".py").replace("/", ".")), module, line)
        for path in sources("app")
        for module, _, line in imports_of(path)
        if module.startswith("app.")
    ]
    assert len(seen) > 300
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path, room, module, line in seen
        if room in ROOMS and room_of(module) not in {room, *EVERYBODYS, *ROOMS[room]}
    ]
    assert not wrong, "the table of rooms in docs/architecture.md forbids:\n" + "\n".join(wrong)
    assert {room for _, room, _, _ in seen} - {"__main__"} <= ROOMS.keys() | EVERYBODYS, "a room that the table lacks"
    assert sum(path.parent == ROOT / "app" for path in sources("app")) <= 6


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources():
        module = name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[module] = {target for target, _, _ in imports_of(path)} - {module}  # inside functions too
    order: list[str] = []  # Kahn: whatever never becomes free of imports stands in a circle
    left = {module: {target for target in targets if target in graph} for module, targets in graph.items()}
    while free := [module for module, targets in left.items() if not targets]:
        order += free
        left = {module: targets - set(free) for module, targets in left.items() if module not in free}
    assert not left, f"circles among {sorted(left)}"


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("app.cli.main", {"torch", "diffusers", "av", "numpy"}),  # so that --help answers at once
        ("pipelines.presets", {"torch", "diffusers"}),
        ("pipelines.types", {"torch", "diffusers"}),
        ("cache", {"torch", "diffusers"}),
        ("schedulers", {"torch", "diffusers"}),
        ("weights.catalog", {"torch", "diffusers"}),
        ("benchmarks", {"torch", "diffusers", "av", "numpy", "yaml", "pydantic", "rich"}),  # listed with their flags
    ],
)
def test_importing_names_and_policies_does_not_load_torch(module: str, banned: set[str]) -> None:
    code = f"import sys, {module}; print(*({banned!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_files_stay_short() -> None:
    long = {
        name_of(path): lines
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines()))
        > (MAX_LINES_MODELS if path.is_relative_to(ROOT / "models") else MAX_LINES)
    }
    assert not long, f"past {MAX_LINES} lines (models/ {MAX_LINES_MODELS}); is there a second noun inside? {long}"


def test_no_file_or_folder_is_named_after_nothing() -> None:
    folders = {path.parent for path in sources()}
    vague = [name_of(p) for p in [*sources(), *folders] if p.stem.lower().strip("_") in FORBIDDEN_NAMES]
    assert not vague, f"name what it holds: {vague}"


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(path) for path in sources() if not ast.get_docstring(tree_of(path))]
    assert not silent


def test_only_the_edge_reads_the_environment_and_the_command_line() -> None:
    readers = re.compile(r"\bos\.(environ|getenv)\b|\bsys\.argv\b")
    wrong = [
        name_of(path)
        for path in sources(*(set(ALLOWED) - {"app", "benchmarks"}))
        if path.name != "__main__.py" and readers.search(path.read_text(encoding="utf-8"))
    ]
    assert not wrong


def names_in(path: Path) -> tuple[set[str], set[str]]:
    """What a module defines for others, and what it imports."""
    defined, imported = set[str](), set[str]()
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {alias.asname or alias.name for alias in node.names}
    return {name for name in defined if not name.startswith("_")}, imported


def test_all_is_sorted_and_complete_where_it_is_defined() -> None:
    for path in sources():
        for node in tree_of(path).body:
            if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "__all__":
                continue
            names: list[str] = ast.literal_eval(node.value)
            defined, imported = names_in(path)
            assert list(names) == sorted(set(names)), f"{name_of(path)}: __all__ is unsorted or repeats a name"
            assert defined <= set(names), f"{name_of(path)}: __all__ lacks {defined - set(names)}"
            assert set(names) <= defined | imported, f"{name_of(path)}: __all__ names what is not there"


def test_gitignore_hides_none_of_our_packages() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    paths = [f"{package}/anything.py" for package in [*ALLOWED, "tests", "docs"]]
    paths += [
        "weights/embedded/transformer/model.safetensors",
        "tests/golden/a.safetensors",
        "pipelines/build.py",
    ]

    def ignored(*names: str) -> list[str]:
        done = subprocess.run(["git", "check-ignore", "--no-index", *names], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.split()

    assert ignored(*paths) == []
    assert ignored("outputs/demo.mp4", ".venv/bin/python", "cache/__pycache__/kv.pyc") != []


STRICT = {"app", "cache", "pipelines", "schedulers"}
LAX = {"cache/rope.py", "cache/scoring.py", "pipelines/feature_profile.py", "pipelines/snapshots.py"}
"""Files on tensors of these packages whose libraries have no types."""


def relaxed(text: str) -> bool:
    """Whether pyright is told to be less than strict with the whole file."""
    return re.search(r"^\s*#\s*pyright:\s*(basic|standard|\w+\s*=)", text, re.MULTILINE) is not None


def test_strict_typing_covers_every_file_but_some_on_tensors() -> None:
    pyright = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    assert set(pyright["strict"]) == STRICT
    assert relaxed('# pyright: basic\n"""A module."""')
    assert relaxed('"""A module."""\n# pyright: reportPrivateUsage=false')
    assert not relaxed("x = y  # pyright: ignore[reportPrivateUsage]")
    files = sources(*STRICT - {"app"})  # whose own rules name the libraries that have no types
    lax = {name_of(path) for path in files if relaxed(path.read_text(encoding="utf-8"))}
    assert lax == LAX, "write what pyright can read, or add the file to the list above"
    torch_free = [name for name in lax if not re.search(r"^import torch", (ROOT / name).read_text(), re.MULTILINE)]
    assert not torch_free, "without tensors there is nothing that has no types"


def shell_commands(page: str) -> list[str]:
    """The command lines inside ```sh blocks of a page, comments dropped."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_the_make_commands_of_a_page_exist(page: str) -> None:
    named = [words[1] for line in shell_commands(page) if (words := shlex.split(line, comments=True))[0] == "make"]
    assert set(named) <= make_targets()
    if page == "README.md":
        assert named[:2] == ["demo", "test"]


def test_the_examples_of_contributing_run() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    policy, preset = (textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    names: dict[str, Any] = {}
    exec(f"from dataclasses import dataclass\nfrom cache.types import *\n{policy}", names)
    newest, entries = names["Newest"](window=7), []
    for start in range(0, 15, 3):
        row = Row(0, range(start, start + 3), (0.0,) * 3, (None,) * 3, "none", "x0", 0, commit=range(start, start + 3))
        for evict in newest.begin(row, Slots(0, start, tuple(entries))):
            del entries[evict.slots.start : evict.slots.stop]
        for write in newest.end(row, Slots(0, start, tuple(entries))):
            assert write.slots.start == len(entries)
            entries += [Slot(frame) for frame in write.frames]
    assert [slot.frame for slot in entries] == [*range(8, 15)]
    exec(preset, names)
    assert names["SHORT"].cache.capacity == 6


def rivulet_commands() -> list[list[str]]:
    """Every `rivulet ...` that a page tells a person to type, or that make types or prints, as arguments."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for page in ("README.md", "CONTRIBUTING.md") for line in shell_commands(page)]
    lines += [
        line.replace("\\\n", " ") for line in re.findall(r"^\t@(\S*/rivulet (?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    ]
    lines += re.findall(r"^\t\t'  (\S*/rivulet .*?)'(?: \\)?$", makefile, re.MULTILINE)
    words = [shlex.split(line, comments=True) for line in lines]
    return [w[1:] for w in words if Path(w[0]).name == "rivulet"]


def test_the_rivulet_commands_that_people_are_told_to_type_are_understood() -> None:
    import typer

    from app.cli.main import app, normalise

    group = typer.main.get_command(app)
    commands = rivulet_commands()
    assert sum(command[0] == "render" for command in commands) >= 4
    assert {"presets", "bench"} <= {command[0] for command in commands}
    for name, *arguments in commands:
        command = group.commands[name]  # type: ignore[attr-defined]  # typer's group, whose class is private
        # Parses as the command line would, without running the command.
        context = command.make_context(name, normalise(arguments))
        if name == "bench":
            one, command, rest = command.resolve_command(context, normalise(arguments))
            command.make_context(one, rest)


def test_the_tree_of_the_readme_names_every_package_and_architecture_every_room() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^(\w+)/ +\S", page, re.MULTILINE))
    assert named - {"contrib", "tests", "docs"} == set(ALLOWED)
    rooms = {path.name for path in (ROOT / "app").iterdir() if (path / "__init__.py").is_file()}
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `app/(\w+)/` \|", table, re.MULTILINE)) == rooms
