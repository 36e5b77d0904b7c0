"""Two Ray nodes on this machine, a core each, and four live films on them: `make cluster-demo`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.cluster.nodes import check_installed, ray_module
from app.errors import UsageMistake

STORE = 2**30
"""Bytes of each node's object store."""
PAGE = Path("outputs/cluster.html")


@contextmanager
def two_nodes(cores: int = 1) -> Iterator[str]:
    """Two nodes with so many cores each; HOST:PORT of the head. They end with the block.

    Raises:
        UsageMistake: there is no Ray.
    """
    check_installed()
    ray_module()  # which sets what the nodes are to inherit
    from importlib import import_module

    node: dict[str, Any] = {"num_cpus": cores, "object_store_memory": STORE, "include_dashboard": False}
    cluster: Any = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=node)
    try:
        del node["include_dashboard"]
        cluster.add_node(**node)
        yield cluster.address
    finally:
        cluster.shutdown()


def main() -> int:
    """Play four films on two nodes, kill an engine, and tell how it went."""
    from benchmarks.benchmark import Run
    from benchmarks.live.serve import Serve

    PAGE.parent.mkdir(exist_ok=True)
    try:
        with two_nodes() as address:
            print(f"Two nodes, the head at {address}. Four films for two minutes; an engine is killed in the middle.")
            load = Serve(
                sessions=4, viewers=2, minutes=2.0, max_sessions=2, threads=1, cluster=address, kill=60.0, page=PAGE
            )
            result = load.measure(Run())
    except UsageMistake as mistake:
        print(f"rivulet: {mistake}", file=sys.stderr)
        return 2
    from rich.console import Console

    Console(highlight=False).print(load.table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
