"""How long a call waits before Python takes it over, found out by making one.

gRPC keeps calls that have arrived in a queue of its own and tells nobody how long it is, and Python takes them over one
by one: in overload, that is where everybody waits. So the worker calls itself, over a socket that nobody else can
reach, and looks when it hears the call.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time

import grpc

from vouchsafe import telemetry
from vouchsafe.edge.admission import Admission

# Waits where those wait who want to redeem: it has no queue of its own (`edge.guard`), and is no method of a service.
METHOD = "/vouchsafe.Probe/Knock"
INTERVAL_S = 0.05
PATIENCE_S = 5.0
DROPPED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


class Probe(grpc.GenericRpcHandler):
    """Asks again and again, from `run` on, and tells the admission what it has found."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._token = secrets.token_hex(16)
        self._heard_s: float | None = None
        self._directory = ""
        self._told = (0, 0)

    def open(self) -> str:
        """The address that the server has to listen on, in a directory that only this user may enter."""
        self._directory = tempfile.mkdtemp(prefix="vouchsafe-probe-")
        return self._address

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        """A call has arrived. Whoever else makes one of METHOD has not the token, and nobody answers it."""
        if handler_call_details.method == METHOD:
            metadata = handler_call_details.invocation_metadata or ()
            if any(name == "token" and value == self._token for name, value in metadata):
                self._heard_s = time.monotonic()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with grpc.aio.insecure_channel(self._address, options=(("grpc.enable_retries", 0),)) as channel:
            knock: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            while True:
                self._admission.note_wait(await self._wait_s(knock))
                self._tell()
                await asyncio.sleep(INTERVAL_S)

    def close(self) -> None:
        """Leaves nothing on the disk; a connection that there is stays."""
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _wait_s(self, knock: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]) -> float | None:
        """How long it took until the call was heard, None when it was dropped before. Of a probe that is out of order
        nothing follows: 0."""
        self._heard_s, sent_s = None, time.monotonic()
        try:
            await knock(b"", timeout=PATIENCE_S, metadata=(("token", self._token),))
        except grpc.aio.AioRpcError as error:  # nobody answers it
            if self._heard_s is None:
                return None if error.code() in DROPPED else 0.0
        self.close()  # already here: a worker that is killed would not
        return (self._heard_s or sent_s) - sent_s

    @property
    def _address(self) -> str:
        return f"unix:{self._directory}/socket"

    def _tell(self) -> None:
        """The metrics, here and not with each call, which would be dear."""
        admission, (admitted, refused) = self._admission, self._told
        telemetry.ADMITTED.inc(admission.admitted - admitted)
        telemetry.OVERLOADED.inc(admission.refused - refused)
        telemetry.ADMISSION_LIMIT.set(admission.limit)
        telemetry.ADMISSION_WAIT.set(admission.wait_s)
        self._told = admission.admitted, admission.refused
