"""What the service tells its operators: structured log lines on stderr, an event each, and metrics for Prometheus."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, disable_created_metrics, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from vouchsafe.domain.errors import Misconfigured
from vouchsafe.settings import Settings

disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types there

# Of the process that moves events to the ledger. All but the first are of the installation, so every persister tells
# the same; a value that cannot be found out at the moment is NaN.
EVENTS_PERSISTED = Counter("vouchsafe_events_persisted", "Events that this process has written to the ledger.")
PERSISTER_LAG = Gauge(
    "vouchsafe_persister_lag_seconds",
    "Age of the oldest event that waits for the ledger, 0 for none.",
    ["partition"],
)
OUTBOX_EVENTS = Gauge("vouchsafe_outbox_events", "Events that wait for the ledger.")
OUTBOX_BYTES = Gauge("vouchsafe_outbox_bytes", "Memory of the gate that they take, about.")
PARTITIONS_OPEN = Gauge("vouchsafe_partitions_open", "Partitions in which the gate decides.")
PARTITIONS_CLOSED = Gauge("vouchsafe_partitions_closed", "Partitions in which it does not.")
EVENTS_SET_ASIDE = Gauge("vouchsafe_events_set_aside", "Entries of outboxes that the ledger could not take over.")
PLANNED_CHANGES_LATE = Gauge(
    "vouchsafe_planned_changes_late_seconds", "How late the oldest planned change that is due is, 0 for none."
)
PLANNED_CHANGES_FAILED = Gauge(
    "vouchsafe_planned_changes_failed", "Planned changes that could not be carried out, of all times."
)
AUDIT_DRIFT = Gauge("vouchsafe_audit_drift", "Counters that differed in the last audit.")
AUDIT_LAST_SUCCESS = Gauge(
    "vouchsafe_audit_last_success_timestamp_seconds", "When the last audit came to its end, 0 for never."
)
# Of the processes of a server, all of them together. No codes, customers or callers stand here.
FAILED_CODES = Counter("vouchsafe_failed_codes", "Codes that were refused as a guess would be.")
FAILED_CREDENTIALS = Counter("vouchsafe_failed_credentials", "Calls without credentials, or with wrong ones.")
THROTTLED = Counter("vouchsafe_throttled", "Calls refused because of failures before, by what counts.", ["by"])
ADMITTED = Counter("vouchsafe_admitted", "Requests to validate, redeem or reserve that were taken on.")
OVERLOADED = Counter("vouchsafe_overloaded", "Those that were refused because there is too much to do.")
ADMISSION_LIMIT = Gauge(
    "vouchsafe_admission_limit",
    "How many may be under way in the worker that takes fewest.",
    multiprocess_mode="livemin",
)
ADMISSION_WAIT = Gauge(
    "vouchsafe_admission_wait_seconds", "How long a call waits for the slowest worker.", multiprocess_mode="livemax"
)

OF_WORKERS = {
    "vouchsafe_failed_codes",
    "vouchsafe_failed_credentials",
    "vouchsafe_throttled",
    "vouchsafe_admitted",
    "vouchsafe_overloaded",
    "vouchsafe_admission_limit",
    "vouchsafe_admission_wait_seconds",
}


@contextmanager
def metrics_served(settings: Settings) -> Iterator[None]:
    """Answers Prometheus on a port of its own, if there is to be one. Raises Misconfigured when it is taken."""
    with _served(settings.metrics_port, settings.host, REGISTRY, "VOUCHSAFE_METRICS_PORT"):
        yield


@contextmanager
def server_metrics_served(settings: Settings) -> Iterator[None]:
    """The same for the workers that are started meanwhile, all of them together: each keeps its metrics in a file of a
    directory that goes when the server does, so they outlive a worker."""
    if not settings.server_metrics_port:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="vouchsafe-metrics-") as directory:
        # What they import reads it.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        registry = CollectorRegistry()
        registry.register(_OfWorkers(directory))
        with _served(settings.server_metrics_port, settings.host, registry, "VOUCHSAFE_SERVER_METRICS_PORT"):
            yield


class _OfWorkers(Collector):
    def __init__(self, directory: str) -> None:
        self._files = MultiProcessCollector(None, directory)  # type: ignore[no-untyped-call]  # it has no types there

    def collect(self) -> Iterator[Metric]:
        """What workers count; they know nothing of the rest."""
        return (metric for metric in self._files.collect() if metric.name in OF_WORKERS)  # type: ignore[no-untyped-call]


@contextmanager
def _served(port: int, host: str, registry: CollectorRegistry, variable: str) -> Iterator[None]:
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise Misconfigured(
            f"cannot tell metrics on {host}:{port}: {error.strerror}; choose another {variable}"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def configure_logging(settings: Settings) -> None:
    """Sets up logging of this process, that of libraries included."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if settings.log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    structlog.contextvars.bind_contextvars(pid=os.getpid())
