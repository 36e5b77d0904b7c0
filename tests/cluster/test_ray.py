"""Ray itself, once: two nodes on this machine, an engine on each, and one of them killed in the middle of a film."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from typing import Any

import pytest

from app.cluster.fleet import Fleet
from app.cluster.nodes import Cluster
from app.cluster.ray_engines import begin_engine
from app.cluster.remote import far_model
from app.errors import UsageMistake
from app.loading.engine_request import EngineRequest
from benchmarks.live.two_nodes import two_nodes
from pipelines.presets import PRESETS
from pipelines.types import Controls

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'rivulet[ray]'"),
    pytest.mark.filterwarnings("ignore"),  # of Ray's own code, which we do not test
]


def test_a_film_goes_on_with_its_own_chunks_when_the_engine_that_has_it_is_killed() -> None:
    request = EngineRequest(preset=PRESETS["embedded"], device="cpu", threads=1)
    with two_nodes() as address:
        cluster = Cluster(address)
        try:
            assert not cluster.own
            assert [node.cores for node in cluster.nodes] == [1, 1]
            with pytest.raises(UsageMistake, match="takes 2 cores, and the largest node has 1"):
                cluster.check_fits(2, 0, "An engine")
            fleet = Fleet(lambda: begin_engine(request, 1, 0))
            homes = [fleet.open() for _ in range(2)]
            model, other = (far_model(request, facts, home) for home, facts in homes)
            processes: list[Any] = [home.far for home, _ in homes]
            assert processes[0].process != processes[1].process
            ball, star = Controls("a red ball over the sea"), Controls("a blue star over the snow")
            stream = model.new_stream(5, ())
            made = [stream.next_chunk(controls).sha256 for controls in (ball, ball, ball)]
            os.kill(processes[0].process, signal.SIGKILL)
            made += [stream.next_chunk(controls).sha256 for controls in (star, star)]
            assert fleet.losses == 1
            undisturbed = other.new_stream(5, ())
            assert made == [undisturbed.next_chunk(controls).sha256 for controls in (ball, ball, ball, star, star)]
            assert len(set(made)) == 5
            del stream, undisturbed
            fleet.close()
        finally:
            cluster.close()
