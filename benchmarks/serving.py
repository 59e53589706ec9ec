"""A bare gRPC server, of which the yardsticks are made."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any

import grpc

Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]
# As a batch of the longest orders that are measured needs, and more.
MAX_MESSAGE_BYTES = 16 << 20


async def serve(port: int, handlers: Handlers) -> None:
    """Answers calls of methods by their names, "/package.Service/Method", until SIGTERM."""
    by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for name, handler in handlers.items():
        _, service, method = name.split("/")
        by_service.setdefault(service, {})[method] = handler
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)))
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(service, methods) for service, methods in by_service.items())
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(0)
