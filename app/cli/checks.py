"""What `rivulet doctor` looks at: whether this machine can make films, what is missing, and what gets it.

Every check is on its own, so that one that breaks is a line of the report and not its end. What a film needs fails;
everything else is a note.
"""

# pyright: reportUnknownMemberType=false
# (PyAV's stubs leave the parameter of Packet open, in every call that takes or gives one.)

import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from app.cli import self_test
from app.errors import explain
from weights.catalog import MODELS

State = Literal["ok", "note", "failed"]

NEEDED = (
    "torch",
    "diffusers",
    "accelerate",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "av",
    "pillow",
    "typer",
    "rich",
    "pydantic",
    "pyyaml",
    "psutil",
    "filelock",
    "opencv-python",
    "mss",
)
EXTRAS = {
    "text": (("transformers", "sentencepiece", "protobuf", "ftfy"), "UMT5, the text encoder of the Wan models"),
    "lora": (("peft",), "live LoRA adapters"),
    "gguf": (("gguf",), "quantised single files (.gguf)"),
    "quant": (("torchao",), "quantised weights"),
}
BACKENDS = {
    "xformers": ("xformers", "xformers"),
    "flash": ("flash-attn", "--no-build-isolation flash-attn"),
    "sage": ("sageattention", "--no-build-isolation git+https://github.com/thu-ml/SageAttention"),
}
"""diffusers' name of an attention backend: its distribution, and what to ask pip for (PyPI's SageAttention is 1.x)."""

_MIB, _GIB = 2**20, 2**30
MEMORY_NEEDED = 600 * _MIB  # the embedded model's peak is 504 MiB (README.md)
DISK_NEEDED = 100 * _MIB  # a minute of the embedded model's film is about 2 MB
DISK_WISHED = 2 * _GIB


@dataclass(frozen=True, slots=True)
class Check:
    """One line: `failed` is something a film needs; `fix` is the command, or the one thing, that puts it right."""

    name: str
    state: State
    detail: str
    fix: str = ""


def examine(
    *,
    film: Callable[[], Check] | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> list[Check]:
    """Run every check; `tell` hears what is looked at now, `film` replaces the self-test."""
    checks: list[Check] = []
    sections: dict[str, Callable[[], Iterator[Check]]] = {
        "python": _python,
        "packages": _packages,
        "device": _device,
        "ranks": _ranks,
        "attention": _attention,
        "video": _video,
        "memory": _memory,
        "disk": _disk,
        "models": _models,
        "self-test": lambda: iter([(film or film_check)()]),
    }
    for name, section in sections.items():
        tell(name)
        try:
            checks.extend(section())
        except Exception as error:
            checks.append(Check(name, "failed", *_said(error)))
    return checks


def healthy(checks: Sequence[Check]) -> bool:
    """Whether everything works that a film needs."""
    return all(check.state != "failed" for check in checks)


def film_check(render: Callable[[], self_test.Rendered] = self_test.render, folder: Path = self_test.PACKAGE) -> Check:
    """Render the self-test's two chunks and say how they compare with the record."""
    rendered = render()
    found = self_test.compare(rendered, folder)
    detail = f"{found.text} ({rendered.seconds:.1f} s)"
    if found.verdict == "unknown":
        return Check("self-test", "note", detail, self_test.RECORD)
    if found.verdict == "wrong":
        fix = "install Rivulet anew, in its own environment (make setup); if it stays, report rivulet doctor --json"
        return Check("self-test", "failed", detail, fix)
    return Check("self-test", "ok", detail)


def pip(*packages: str) -> str:
    """Return the command that installs into the environment that is running."""
    return " ".join([shlex.quote(sys.executable), "-m pip install", *packages])


def _said(error: Exception) -> tuple[str, str]:
    """Split an error into what is wrong and what to do."""
    missing = isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0]
    if missing:
        return f"{missing} cannot be imported", pip(shlex.quote(_requirement(missing)))
    wrong, _, cure = explain(error)[0].partition(". ")
    return wrong.rstrip("."), cure.rstrip(".")


def _python() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Check]:
    found, missing = _versions(NEEDED)
    if missing:
        wanted = [shlex.quote(_requirement(name)) for name in missing]
        yield Check("packages", "failed", f"missing: {', '.join(missing)}", pip(*wanted))
    rivulet = _versions(["rivulet"])[0].get("rivulet", "run from its folder, not installed")
    numbers = ", ".join(f"{name} {number}" for name, number in found.items())
    yield Check("versions", "ok", f"rivulet {rivulet}, {numbers}")
    for extra, (names, purpose) in EXTRAS.items():
        found, missing = _versions(names)
        if missing:
            wanted = [shlex.quote(_requirement(name)) for name in missing]
            yield Check(extra, "note", f"{', '.join(missing)} not installed, optional: {purpose}", pip(*wanted))
        else:
            yield Check(extra, "ok", f"{', '.join(f'{name} {number}' for name, number in found.items())}: {purpose}")


def _device() -> Iterator[Check]:
    import torch

    yield Check("cpu", "ok", f"{self_test.cpu_type()}; {os.cpu_count()} cores, torch uses {torch.get_num_threads()}")
    if not torch.cuda.is_available():
        yield _no_cuda(torch.version.cuda)
        return
    a = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    if float((a @ a)[0, 0]) != 64.0:
        fix = "look at nvidia-smi; until then render with --device cpu"
        yield Check("cuda", "failed", "a matrix product on the GPU is wrong", fix)
        return
    for index in range(torch.cuda.device_count()):
        name, (major, minor) = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{name}, sm_{major}{minor}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield Check(f"cuda:{index}", "ok", f"{text}, CUDA {torch.version.cuda}")


def _ranks() -> Iterator[Check]:
    """Whether one film can be spread over several devices or processes, and how many."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        yield Check("ranks", "note", "this torch has no torch.distributed: a film is one process")
        return
    devices, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if devices > 1 and dist.is_nccl_available():
        yield Check("ranks", "ok", f"one film on up to {devices} GPUs over NCCL: rivulet render ... --gpus {devices}")
    elif devices > 1:
        yield Check("ranks", "note", f"{devices} GPUs, but this torch lacks NCCL", pip("--force-reinstall", "torch"))
    elif dist.is_gloo_available() and cores > 1:
        where = "this GPU makes a film alone" if devices else "no GPU"
        yield Check("ranks", "ok", f"{where}; --gpus 2 --device cpu spreads a film over processes, with gloo")
    else:
        yield Check("ranks", "note", "one core, or no gloo: a film is one process")


def _no_cuda(built: str | None) -> Check:
    """Why torch has no CUDA device, and what helps where the machine has an NVIDIA GPU."""
    if shutil.which("nvidia-smi") is None:
        return Check("cuda", "note", "no NVIDIA GPU; the embedded model needs none")
    if built:
        fix = "install or update NVIDIA's driver until nvidia-smi lists the GPU"
        return Check("cuda", "note", f"torch is built for CUDA {built} but finds no GPU", fix)
    fix = pip("--force-reinstall", shlex.quote(_requirement("torch")), "--index-url", "https://pypi.org/simple")
    if platform.system() != "Linux":  # where PyPI's torch is built for the CPU
        fix = "take the command for CUDA from https://pytorch.org/get-started/locally"
    return Check("cuda", "note", "this torch is built for the CPU alone", fix)


def _attention() -> Iterator[Check]:
    """torch's own attention is what films are made with; the others are diffusers' alternatives."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    yield (
        Check("attention native", "ok", f"torch's own, runs on {device}")
        if _attends("native", device)
        else Check(
            "attention native", "failed", "torch's own attention gives wrong values", pip("--force-reinstall", "torch")
        )
    )
    for backend, (distribution, wanted) in BACKENDS.items():
        name, installed = f"attention {backend}", _versions([distribution])[0].get(distribution)
        if installed is None:
            needs = "" if device == "cuda" else "; needs an NVIDIA GPU"
            yield Check(name, "note", f"not installed, optional{needs}", pip(wanted))
        elif device == "cpu":
            yield Check(name, "note", f"{distribution} {installed} is installed; it needs an NVIDIA GPU")
        else:
            try:
                works = _attends(backend, device)
            except Exception as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
                works, installed = False, f"{installed}: {first}"
            detail = f"{distribution} {installed}"
            fix = pip("--upgrade", wanted)
            yield Check(name, "ok", detail) if works else Check(name, "note", f"does not work here, {detail}", fix)


def _attends(backend: str, device: str) -> bool:
    """Whether diffusers' dispatcher computes a small attention with that backend as arithmetic would."""
    import torch
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        dispatch_attention_fn,  # pyright: ignore[reportUnknownVariableType]
    )

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 64, 2, 64, generator=generator) for _ in range(3))
    weights = torch.einsum("bqnd,bknd->bnqk", query, key).div(8).softmax(-1)
    expected = torch.einsum("bnqk,bknd->bqnd", weights, value)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v = (x.to(device, dtype) for x in (query, key, value))
    given = dispatch_attention_fn(q, k, v, backend=AttentionBackendName(backend))
    off = float((given.float().cpu() - expected).abs().max())
    return off < (1e-4 if device == "cpu" else 0.1)  # SageAttention quantises to 8 bits


def _video() -> Iterator[Check]:
    """Write and read back a film as a render does, and a sound track."""
    import av
    import numpy as np

    from app.media.mp4 import FilmWriter

    again = pip("--force-reinstall", shlex.quote(_requirement("av")))
    for codec in ("libx264", "aac"):
        if codec not in av.codecs_available:
            yield Check("video", "failed", f"PyAV {av.__version__} has no {codec}", again)
            return
    ramp = np.linspace(0, 255, 64 * 64, dtype=np.uint8).reshape(64, 64)
    frames = np.stack([np.stack([np.roll(ramp, 4 * n, 1)] * 3, -1) for n in range(8)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doctor.mp4"
        writer = FilmWriter(path, height=64, width=64, fps=Fraction(16))
        writer.write(frames)
        writer.close()
        with av.open(str(path)) as film:
            back = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
        off = float(np.abs(back.astype(int) - frames).mean()) if back.shape == frames.shape else 255.0
        sound = Path(folder) / "doctor.m4a"
        with av.open(str(sound), "w") as out:
            track = out.add_stream("aac", rate=44100, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 44100, 0
            out.mux(track.encode(silence))
            out.mux(track.encode(None))
        with av.open(str(sound)) as film:
            heard = sum(frame.samples for frame in film.decode(audio=0))
    if off > 8 or heard < 1024:
        what = "frames come back wrong" if off > 8 else "sound comes back short"
        yield Check("video", "failed", f"PyAV {av.__version__}: {what}", again)
    else:
        number = ".".join(map(str, av.library_versions["libavcodec"]))
        yield Check("video", "ok", f"H.264 and AAC, written and read back; PyAV {av.__version__}, libavcodec {number}")


def _memory() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    if memory.available < MEMORY_NEEDED:
        detail = f"{text}; the embedded model needs {MEMORY_NEEDED // _MIB} MiB"
        yield Check("memory", "failed", detail, "close other programs")
    else:
        yield Check("memory", "ok", text)


def _disk() -> Iterator[Check]:
    """Where films go by default, and where temporary files do."""
    places: tuple[tuple[str, Path, State, str], ...] = (
        ("disk", Path.cwd(), "note", "go to a folder of yours, or name one: --output FOLDER/out.mp4"),
        ("disk, temporary", Path(tempfile.gettempdir()), "failed", "export TMPDIR=/a/folder/of/yours"),
    )
    for name, folder, state, fix in places:
        free = shutil.disk_usage(folder).free
        text = f"{free / _GIB:.1f} GiB free in {folder}"
        if not os.access(folder, os.W_OK):
            yield Check(name, state, f"{folder} is not writable", fix)
        elif free < DISK_NEEDED:
            yield Check(name, "failed", f"{text}; a film needs {DISK_NEEDED // _MIB} MiB", "free some space")
        elif free < DISK_WISHED:
            yield Check(name, "note", f"{text}; enough for short films", "free some space before a long one")
        else:
            yield Check(name, "ok", text)


def _models() -> Iterator[Check]:
    """Which models are on this disk; the others come with `rivulet models pull`."""
    from app.loading.model import at_hand
    from pipelines.presets import PRESETS

    for name in dict.fromkeys(preset.model for preset in PRESETS.values()):
        here = at_hand(name)
        if here:
            yield Check(f"model {name}", "ok", f"on this disk{_verdict(name)}")
        elif name == "embedded":
            yield Check("model embedded", "failed", "its weights are missing", "install Rivulet again: make setup")
        else:
            fix = f"rivulet models pull {name}"
            if any(part.licence_tick for part in MODELS[name].weights):
                fix += f" --accept_licence {name}"
            yield Check(f"model {name}", "note", f"not on this disk, optional{_verdict(name)}", fix)


def _verdict(name: str) -> str:
    """What this machine can do with a model, as the rest of a sentence; "" for one that is small."""
    from app.loading.verdict import verdict_on

    here = verdict_on(MODELS[name])
    return "" if here is None else f"; {here.told.removeprefix(f'{name} ')}"


def _versions(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Versions of the installed distributions, and the names of those that are not."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    return found, missing


def _requirement(name: str) -> str:
    """Return the range in which Rivulet wants a package, where Rivulet is installed and says so."""
    try:
        lines = requires("rivulet") or []
    except PackageNotFoundError:
        lines = []
    distribution = {"PIL": "pillow", "yaml": "pyyaml"}.get(name, name)
    for line in lines:
        requirement = line.partition(";")[0].replace(" ", "")
        if requirement.rstrip("<>=!~.,0123456789").lower() == distribution.lower():
            return requirement
    return distribution
