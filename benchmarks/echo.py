"""The yardstick: a gRPC server that reads no message, decides nothing and keeps nothing.

`python -m benchmarks.echo PORT SIZE` answers every call with the same SIZE bytes until SIGTERM. It has the event loop
and the options of a vouchsafe worker, so what it takes is what Python's gRPC takes for itself.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import grpc
import uvloop

from benchmarks.message import METHOD


async def serve(port: int, response: bytes) -> None:
    """Answers every call of METHOD with `response`."""

    async def answer(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return response

    _, service, method = METHOD.split("/")
    # Without serializers the bytes pass as they are.
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), bytes(int(sys.argv[2]))))
