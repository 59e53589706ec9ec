"""The gRPC server of one worker: what it listens on, which services it offers, and its health."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME, aio
from grpc_reflection.v1alpha import reflection

from vouchsafe.edge.access import SERVICES, Access
from vouchsafe.edge.admission import Admission
from vouchsafe.edge.audits import AuditServicer
from vouchsafe.edge.campaigns import CampaignServicer
from vouchsafe.edge.certificates import server_credentials
from vouchsafe.edge.codes import CodeServicer
from vouchsafe.edge.guard import Guard, Guarded
from vouchsafe.edge.many import Streams
from vouchsafe.edge.message_rules import MessageRules
from vouchsafe.edge.probe import Probe
from vouchsafe.edge.redemptions import RedemptionServicer
from vouchsafe.service.campaigns import Campaigns
from vouchsafe.service.codes import Codes
from vouchsafe.service.guessing import Guessing
from vouchsafe.service.keys import Keys
from vouchsafe.service.kill_switch import KillSwitchboard
from vouchsafe.service.plans import Plans
from vouchsafe.service.redeem import Redeem
from vouchsafe.service.together import Together
from vouchsafe.service.trail import Trail
from vouchsafe.service.watch import Watch
from vouchsafe.settings import Settings
from vouchsafe.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from vouchsafe.v1.campaign_service_pb2_grpc import add_CampaignServiceServicer_to_server
from vouchsafe.v1.code_service_pb2_grpc import add_CodeServiceServicer_to_server
from vouchsafe.v1.redemption_service_pb2_grpc import add_RedemptionServiceServicer_to_server

# Names to ask the health service for. Liveness: the process answers; a restart would not help while it does.
# Readiness, also under "" and the name of each service: redemptions can be decided, if not in every partition.
# Completeness: they can in every partition.
LIVENESS = "liveness"
COMPLETENESS = "completeness"
NAMES = tuple(service.full_name for service in SERVICES)
READINESS = ("readiness", "", *NAMES)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """Listens from `start` on; answers UNAVAILABLE until `open` has given it its use cases."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        """Raises Misconfigured when the settings say who may call in a way that does not hold."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._address = f"{host}:{settings.port}"
        self._credentials = server_credentials(settings)
        admission = Admission(settings.max_waiting, settings.max_wait_ms)
        self._probe = Probe(admission)
        rules = MessageRules()
        self._guard = Guard(Access(settings, keys), admission, rules)
        self._health = aio.HealthServicer()
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                # Calls that Python has not taken over yet, in each of gRPC's queues. From the first bound on gRPC drops
                # some of them, from the second on all, with a bare CANCELLED: it does so for a quarter of what a
                # refusal costs in Python. A worker takes a few over in a millisecond.
                ("grpc.server.max_pending_requests", 4 * settings.max_wait_ms),
                ("grpc.server.max_pending_requests_hard_limit", 8 * settings.max_wait_ms),
                # A slower one drops by time: whole seconds is all that gRPC knows.
                ("grpc.server_max_unrequested_time_in_server", max(1, 4 * settings.max_wait_ms // 1_000)),
                # Clients may ping to keep a quiet connection open through proxies.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # A watcher whose machine is gone says nothing: it would keep its place for hours.
                ("grpc.keepalive_time_ms", 60_000),
            ),
        )
        self._probing: asyncio.Task[None] | None = None
        self._streams = Streams()
        self._redemptions = RedemptionServicer(rules.check, admission, self._streams)
        self._campaigns = CampaignServicer()
        self._codes = CodeServicer()
        self._audits = AuditServicer()
        guarded: Any = Guarded(self._server, self._guard)
        add_RedemptionServiceServicer_to_server(self._redemptions, guarded)
        add_CampaignServiceServicer_to_server(self._campaigns, guarded)
        add_CodeServiceServicer_to_server(self._codes, guarded)
        add_AuditServiceServicer_to_server(self._audits, guarded)
        self._server.add_generic_rpc_handlers((self._probe,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*NAMES, SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Binds the port and begins to answer. Raises RuntimeError when the address cannot be bound."""
        if self._credentials is None:
            self._server.add_insecure_port(self._address)
        else:
            self._server.add_secure_port(self._address, self._credentials)
        await self._health.set(LIVENESS, SERVING)
        await self.set_ready(False, complete=False)
        self._server.add_insecure_port(self._probe.open())
        await self._server.start()

    def open(
        self,
        redeem: Redeem,
        guessing: Guessing,
        campaigns: Campaigns,
        plans: Plans,
        switches: KillSwitchboard,
        watch: Watch,
        codes: Codes,
        trail: Trail,
    ) -> None:
        """Lets calls through to the use cases."""
        self._redemptions.use_case = redeem
        self._redemptions.guessing = guessing
        self._redemptions.together = Together(redeem, guessing)
        self._campaigns.use_case = campaigns
        self._campaigns.plans = plans
        self._campaigns.switches = switches
        self._campaigns.watch = watch
        self._codes.use_case = codes
        self._audits.use_case = trail
        self._guard.open()
        self._probing = asyncio.create_task(self._probe.run(), name="probe")

    async def set_ready(self, ready: bool, *, complete: bool) -> None:
        """Says over the health service whether redemptions can be decided, and whether they can in every partition."""
        for name in READINESS:
            await self._health.set(name, _status(ready))
        await self._health.set(COMPLETENESS, _status(complete))

    async def stop(self, grace_ms: int) -> None:
        """Takes no new calls, lets those under way finish for at most `grace_ms`, then ends them."""
        await self._health.enter_graceful_shutdown()
        self._streams.close()
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        self._probe.close()
        await self._server.stop(grace_ms / 1000)


def _status(serves: bool) -> Any:
    return SERVING if serves else NOT_SERVING
