"""Nodes of a Ray cluster: joined, or begun on this machine alone; every import of Ray is here and in its neighbours.

Ray's dashboard, usage statistics and logs of others' processes are off. What Ray starts here ends with this process.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.errors import UsageMistake, printable, shorten

AUTO = "auto"
"""The cluster that this machine is a node of, else one of this machine alone."""
ROOT = Path(__file__).resolve().parents[2]
_REACH_SECONDS = 5.0
"""For a head node to answer; Ray itself waits two minutes."""
STORE = 2**28
"""Bytes that objects on their way may take on a node that is begun here; what is beyond goes to the disk."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: its name, and how many cores and GPUs of it Ray may use."""

    name: str
    cores: int
    gpus: int


def check_installed() -> None:
    """Raise UsageMistake where there is no Ray."""
    if find_spec("ray") is None:
        raise UsageMistake("--cluster needs Ray. Install: pip install 'rivulet[ray]'")


def ray_module() -> Any:
    """Ray, which is typed loosely and need not be there for those who check types; what it begins inherits this."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # after we have left, a call starts no cluster of its own
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 is for batches beside something else
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what nobody asked
    return import_module("ray")


class Cluster:
    """The nodes that this process has joined.

    Args:
        where: AUTO, or HOST:PORT of a head node.
        kept: bytes of objects that stay for long, beside those on their way.

    Attributes:
        own: whether it was begun here, and ends with this process.

    Raises:
        UsageMistake: there is no Ray, or nobody at that address.
    """

    def __init__(self, where: str, kept: int = 0) -> None:
        check_installed()
        if where != AUTO:
            _check_reached(where)
        ray = self._ray = ray_module()
        # Workers find the program as this process does, wherever their node was started.
        quiet: dict[str, Any] = {
            "log_to_driver": False,
            "configure_logging": False,
            "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
        }
        self.own = False
        try:
            ray.init(address=where, **quiet)
        except ConnectionError as error:
            if where != AUTO:
                raise UsageMistake(f"The cluster at {where} does not let us in: {_line(error)}") from error
            self.own = True
            ray.init(include_dashboard=False, object_store_memory=STORE + kept, **quiet)
        except (RuntimeError, ValueError) as error:  # another version, another token
            raise UsageMistake(f"The cluster at {where} does not let us in: {_line(error)}") from error

    @property
    def nodes(self) -> list[Node]:
        """Those that are alive."""
        found: list[dict[str, Any]] = [node for node in self._ray.nodes() if node["Alive"]]
        return [
            Node(
                str(node["NodeManagerAddress"]),
                int(node["Resources"].get("CPU", 0)),
                int(node["Resources"].get("GPU", 0)),
            )
            for node in found
        ]

    def check_fits(self, cores: int, gpus: int, what: str) -> None:
        """Raise UsageMistake where no node has so many cores and GPUs for one of `what`: it would wait for ever."""
        nodes = self.nodes
        if any(node.cores >= cores and node.gpus >= gpus for node in nodes):
            return
        if gpus and not any(node.gpus for node in nodes):
            raise UsageMistake(f"{what} needs a GPU, and no node has one. Give --device cpu.")
        most = max((node.cores for node in nodes), default=0)
        raise UsageMistake(
            f"{what} takes {cores} cores, and the largest node has {most}. Give --threads {max(1, most)} or less."
        )

    def close(self) -> None:
        """Leave; what runs there for us ends."""
        self._ray.shutdown()


def device_on(nodes: list[Node], device: str) -> str:
    """What `device` means on these nodes: auto is cuda where any node has a GPU."""
    if device != "auto":
        return device
    return "cuda" if any(node.gpus for node in nodes) else "cpu"


def _check_reached(where: str) -> None:
    host, colon, port = where.rpartition(":")
    if not colon or not host or not port.isdigit() or "/" in host:
        raise UsageMistake(
            f"{printable(shorten(where, 60))} is no head node. Give --cluster HOST:PORT, as `ray start --head` prints "
            "it, or --cluster auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageMistake(
            f"Nobody answers at {printable(shorten(where, 60))} ({_line(error)}). Check the address, and that Ray runs "
            "there: ray start --head"
        ) from error


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return printable(shorten(" ".join(text.split()), 200))
