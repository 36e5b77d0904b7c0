"""Metrics for Prometheus: counters, gauges and histograms in a registry of one server's own.

None has labels: what would tell films or viewers apart is as many as there are people.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PROMPT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_CHUNK = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
_AGE = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
_PAUSE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds at which the histograms are cut."""


class ServerMetrics:
    """Of one server.

    Attributes:
        frames_sent, messages_refused, connections_ended: counted since it began.
        prompt_to_picture: seconds from a prompt's arrival to its first frame, told to who drives.
        chunk_time: seconds that a chunk took the engine.
        frame_age: seconds from a chunk's end to the sending of one of its frames.
        loop_pause: seconds that the event loop came late to a timer.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)

        def counter(name: str, told: str) -> Counter:
            return Counter(f"rivulet_{name}", told, registry=self._registry)

        def histogram(name: str, told: str, cuts: tuple[float, ...]) -> Histogram:
            return Histogram(f"rivulet_{name}_seconds", told, buckets=cuts, registry=self._registry)

        self.frames_sent = counter("frames_sent", "Frames sent to viewers at sockets")
        self.messages_refused = counter("messages_refused", "Messages of clients that were refused")
        self.connections_ended = counter("visits", "WebSocket connections that have ended")
        self.prompt_to_picture = histogram("prompt_to_picture", "From a prompt to its first frame", _PROMPT)
        self.chunk_time = histogram("chunk_time", "What a chunk took the engine", _CHUNK)
        self.frame_age = histogram("frame_age", "From a chunk's end to the sending of its frame", _AGE)
        self.loop_pause = histogram("loop_pause", "How late the event loop came to a timer", _PAUSE)

    def watch(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        """Show what `gauges` gives, whenever somebody looks."""
        self._registry.register(_Gauges(gauges))

    def exposition(self) -> bytes:
        """All of it as text, of CONTENT_TYPE."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        self._figures = figures

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # their names are known only when the server has begun

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, value in self._figures().items():
            yield GaugeMetricFamily(f"rivulet_{name}", name.replace("_", " "), value)
