"""The yardstick: a gRPC server that reads no message, decides nothing and keeps nothing.

`python -m benchmarks.echo PORT SIZES` answers every call of a way with the same bytes, SIZES being {way: how many} as
JSON, until SIGTERM. It has the event loop and the options of a vouchsafe worker, so what it takes is what Python's gRPC
takes for itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import uvloop

from benchmarks.message import METHODS, Way
from benchmarks.serving import Handlers, serve


def handlers(sizes: Mapping[Way, int]) -> Handlers:
    """A method for each way."""
    responses = {way: bytes(size) for way, size in sizes.items()}

    async def unary(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return responses["unary"]

    async def batch(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return responses["batch"]

    async def stream(
        requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield responses["stream"]

    # Without serializers the bytes pass as they are.
    return {
        METHODS["unary"]: grpc.unary_unary_rpc_method_handler(unary),
        METHODS["batch"]: grpc.unary_unary_rpc_method_handler(batch),
        METHODS["stream"]: grpc.stream_stream_rpc_method_handler(stream),
    }


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), handlers(json.loads(sys.argv[2]))))
