"""The flags of `rivulet web`; what they start is in app/server/main.py.

Mistakes are told before a model or Gradio is imported.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DeviceName, ModelName, PresetName, option
from app.config.readers import DEVICES, choose
from app.config.table import READERS, TABLE
from app.errors import UsageMistake

PROMPT = "a big red ball bounces over the sea"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
EPILOG = "Films, logs and render jobs stay in the folder and can be taken up again. Exit code 130 after Ctrl-C."
_EXTRA = ("gradio", "fastapi", "uvicorn", "websockets", "prometheus_client")


def web_command(
    host: Annotated[str, typer.Option("--host", help="Address to listen at; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="If taken, the next free one; 0: any.")] = 7860,
    prompt: Annotated[str, typer.Option("--prompt", help="What a film shows at first.")] = PROMPT,
    seed: Annotated[int, typer.Option("--seed", min=-1, max=2**53 - 1, help="-1 draws one.")] = -1,
    preset: PresetName = "embedded",
    model: ModelName = None,
    lora: Annotated[list[str] | None, option(TABLE["lora"])] = None,
    vae: Annotated[str, option(TABLE["vae"])] = "auto",
    vram: Annotated[str | None, option(TABLE["vram"])] = None,
    attention: Annotated[str, option(TABLE["attention"])] = "auto",
    device: DeviceName = "auto",
    threads: Annotated[int | None, option(TABLE["threads"], usual="all cores but one")] = None,
    num_frame_per_block: Annotated[
        int | None, option(TABLE["num_frame_per_block"], usual="the preset's; 1 answers a camera soonest")
    ] = None,
    feature_cache: Annotated[str | None, option(TABLE["feature_cache"])] = None,
    max_sessions: Annotated[
        int,
        typer.Option(
            "--max_sessions",
            min=0,
            max=64,
            help="Films at a time; who comes then waits. 0: 4 on a GPU, on a CPU one for each core, 4 at most.",
        ),
    ] = 0,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="auto|HOST:PORT",
            help="Make films on a Ray cluster: --max_sessions an engine, which has --threads cores or a GPU.",
        ),
    ] = None,
    keep_sessions: Annotated[
        float,
        typer.Option("--keep_sessions", metavar="SECONDS", min=0, max=31_536_000, help="How long a left film is kept."),
    ] = 3600.0,
    undo_memory: Annotated[
        int, typer.Option("--undo_memory", metavar="BYTES", min=0, help="Memory for rewinding, of all films together.")
    ] = 2**30,
    live_memory: Annotated[
        int,
        typer.Option(
            "--live_memory", metavar="BYTES", min=2**20, help="Memory for what can be saved, of all films together."
        ),
    ] = 2**29,
    live_disk: Annotated[
        int,
        typer.Option(
            "--live_disk", metavar="BYTES", min=10**6, help="Disk for films and logs, all together; old ones give way."
        ),
    ] = 10 * 10**9,
    no_open: Annotated[bool, typer.Option("--no_open", help="Do not open a browser.")] = False,
    no_autostart: Annotated[bool, typer.Option("--no_autostart", help="Films wait for Play.")] = False,
    no_perform: Annotated[
        bool, typer.Option("--no_perform", help="The page shows nothing of its own accord while nobody types.")
    ] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Where films, logs and render jobs go.")] = Path(
        "outputs/live"
    ),
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="USER:PASSWORD", envvar="RIVULET_AUTH", help="Ask for these, everywhere."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow_host", metavar="NAME", help="A name of this server, as a proxy gives it.", show_default=False
        ),
    ] = None,
    proxy_headers: Annotated[
        bool, typer.Option("--proxy_headers", help="Believe X-Forwarded-For, -Proto and -Host of --trusted_proxies.")
    ] = False,
    trusted_proxies: Annotated[
        list[str] | None,
        typer.Option("--trusted_proxies", metavar="ADDRESS", help="A proxy or a network of them.", show_default=False),
    ] = None,
    root_path: Annotated[str, typer.Option("--root_path", help="Sub-path behind a proxy: /film.")] = "",
    log_json: Annotated[bool, typer.Option("--log_json", help="Log lines as JSON, one object each.")] = False,
    ssl_certfile: Annotated[Path | None, typer.Option("--ssl_certfile", help="PEM, for https.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option("--ssl_keyfile", help="Its key.")] = None,
) -> int:
    """Open the live page: a film that plays at once and follows what you type."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise UsageMistake(f"The live page needs {' and '.join(missing)}. Install: pip install 'rivulet[web]'")
    if not prompt.strip():
        raise UsageMistake("--prompt is empty. Say in a few words what the film should show.")
    if auth is not None and not all(auth.partition(":")):
        raise UsageMistake("--auth is a user and a password. Write --auth USER:PASSWORD.")
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise UsageMistake("--root_path begins with a slash and ends without one. Write it like /film.")
    if proxy_headers != bool(trusted_proxies):
        raise UsageMistake(
            "Proxy headers count from proxies that are named. Give --proxy_headers --trusted_proxies IP."
        )
    _check_certificate(ssl_certfile, ssl_keyfile)
    if cluster is not None:
        from app.cluster.nodes import check_installed

        check_installed()
    if model is not None:
        _check_model(model)
    from app.loading.engine_request import EngineRequest
    from app.loading.live import live_threads
    from app.server.access import host_names
    from app.server.addresses import read_proxies
    from app.server.doors import Doors
    from app.server.main import Serving, find_place, serve
    from pipelines.presets import PRESETS
    from pipelines.presets.knobs import KnobError, apply_knobs

    system = PRESETS[choose(preset, list(PRESETS), "preset")]
    knobs = {"num_frame_per_block": num_frame_per_block, "feature_cache": feature_cache}
    for name, value in knobs.items():
        try:
            system = system if value is None else apply_knobs(system, {name: value})
        except KnobError as error:
            raise UsageMistake(f"--{name}: {error}") from None
    asked = Serving(
        request=EngineRequest(
            preset=system,
            model=None if model is None else READERS["model"]("--model", model),
            loras=READERS["lora"]("--lora", lora or []),
            vae=READERS["vae"]("--vae", vae),
            vram=None if vram is None else READERS["vram"]("--vram", vram),
            attention=READERS["attention"]("--attention", attention),
            device=choose(device, DEVICES, "device"),
            threads=live_threads()
            if threads is None and cluster is None and "OMP_NUM_THREADS" not in os.environ
            else threads,
        ),
        folder=folder,
        prompt=prompt,
        seed=seed,
        max_sessions=max_sessions,
        keep_sessions=keep_sessions,
        undo_memory=undo_memory,
        live_memory=live_memory,
        live_disk=live_disk,
        autostart=not no_autostart,
        perform=not no_perform,
        auth=auth,
        hosts=host_names(allow_host or ()),
        proxies=read_proxies(trusted_proxies) if trusted_proxies else None,
        root_path=root_path,
        log_json=log_json,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        open_browser=not no_open,
        cluster=cluster,
    )
    place = find_place(host, port, Doors(proxies=asked.proxies))
    if port not in (0, place.port):
        print(f"Port {port} is taken; this is port {place.port}.")
    if host not in LOOPBACK and auth is None:
        print("Everybody who reaches this machine can watch and drive; --auth USER:PASSWORD asks for a password.")
    return serve(place, asked)


def _check_model(model: str) -> None:
    """Refuse a model that is not there before a page is served: what `rivulet render` says of it."""
    from weights.find import get_model

    try:
        get_model(model)
    except (OSError, ValueError) as error:
        raise UsageMistake(f"--model: {error}") from None


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise UsageMistake("https needs a certificate and its key. Give --ssl_certfile and --ssl_keyfile.")
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError:
        raise UsageMistake(f"{certificate} and {key} are no certificate with its key. Give two PEM files.") from None
