"""Connections to a server: plain, or encrypted with whom to trust and who we are."""

from __future__ import annotations

from pathlib import Path

import grpc

File = str | Path

CHANNEL_OPTIONS = (
    # The library would resend behind our back; this client does it itself, within the deadline.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
    # Channels of one target would share a connection otherwise, and so reach only one of the server's workers.
    ("grpc.use_local_subchannel_pool", 1),
)


def channel_to(target: str, ca_file: File | None, cert_file: File | None, key_file: File | None) -> grpc.aio.Channel:
    """A channel that is encrypted when there is somebody to trust, all PEM files. Raises OSError and ValueError."""
    if ca_file is None:
        if cert_file is not None or key_file is not None:
            raise ValueError("a certificate is of use only with tls_ca_file")
        return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=Path(ca_file).read_bytes(),
        private_key=None if key_file is None else Path(key_file).read_bytes(),
        certificate_chain=None if cert_file is None else Path(cert_file).read_bytes(),
    )
    return grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
