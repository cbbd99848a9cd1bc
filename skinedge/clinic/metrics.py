"""What Prometheus may read at ``/metrics``: counts and times, nothing of anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from skinedge.clinic.engine import Engine

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class Metrics:
    """One server's."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "skinedge_requests", "HTTP requests by route and status", ("route", "status"), registry=self.registry
        )
        self.answers = Counter("skinedge_answers", "Answers by how they ended", ("end",), registry=self.registry)
        self.tokens = Counter("skinedge_generated_tokens", "Tokens generated", registry=self.registry)
        self.read = Counter(
            "skinedge_prompt_tokens", "Prompt tokens by whether they were read again", ("kept",), registry=self.registry
        )
        self.refused = Counter("skinedge_pictures_refused", "Files that were no photograph we read", registry=self.registry)
        self.first = Histogram(
            "skinedge_first_token_seconds", "From the question to its first token", buckets=_SECONDS, registry=self.registry
        )
        self.whole = Histogram(
            "skinedge_answer_seconds", "From the question to its end", buckets=_SECONDS, registry=self.registry
        )
        waiting = Gauge("skinedge_waiting", "Questions in the queue", registry=self.registry)
        waiting.set_function(lambda: engine.waiting)
        restarts = Gauge(
            "skinedge_engine_restarts", "Times the model's process ended and was started again", registry=self.registry
        )
        restarts.set_function(lambda: engine.restarted)
        ready = Gauge("skinedge_engine_ready", "Whether the model is loaded", registry=self.registry)
        ready.set_function(lambda: engine.state in ("ready", "busy"))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
