"""A rank that is not the program: it loads what rank 0 tells it, does what it is told, and ends when rank 0 does."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from app.config.readers import lora_parts
from app.errors import EXIT_FAILURE, EXIT_OK, explain, printable
from app.loading.launch import MEET, OVER, Launched, store_of
from app.loading.model import use_threads
from app.loading.same_model import fingerprint
from parallel import LinkLost

if TYPE_CHECKING:
    from app.loading.engine_request import EngineRequest
    from pipelines.crew import Part


def follow(started: Launched, debug: bool) -> int:
    """Help rank 0 and return the exit code.

    Args:
        started: which rank this is.
        debug: say what goes wrong here too, which is else for rank 0 alone to say.
    """
    for number in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_IGN)  # rank 0 hears them, and ends all in order
    if not debug:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
    store = store_of(started)
    try:
        where = store.get(MEET).decode()
    except RuntimeError:  # rank 0 never came, or has gone
        return EXIT_FAILURE
    if where == OVER:
        return EXIT_OK
    from pipelines import crew

    def load(request: EngineRequest) -> tuple[Part, Any]:
        return _load(request, started)

    def say(error: BaseException) -> str:
        return printable(explain(error)[0])

    try:
        crew.follow(where, started.rank, store, load=load, explain=say, gone=lambda why: os._exit(EXIT_FAILURE))
    except (LinkLost, OSError):
        return EXIT_FAILURE
    except BaseException:
        if debug:
            raise
        return EXIT_FAILURE
    return EXIT_OK


def _load(request: EngineRequest, started: Launched) -> tuple[Part, Any]:
    """The transformer of a request, on our device, and what it is known by."""
    import torch

    from pipelines.components import choose_device, load_transformer
    from pipelines.crew import Part

    use_threads(request.threads)
    if request.device == "cuda":
        torch.cuda.set_device(started.local)
    device, dtype = choose_device(request.device)
    model = load_transformer(
        request.model or request.preset.model,
        device=device,
        dtype=dtype,
        models_dir=request.models_dir,
        offline=request.offline,
        licence_accepted=request.accepted_licences,
        loras=[lora_parts(written) for written in request.loras],
        ema=request.ema,
    )
    return Part(model, request.preset), fingerprint(model)
