"""Every setting, its default and its meaning. Nothing else in the package reads the environment."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Acknowledge = Literal["gate", "replica", "ledger"]


class Settings(BaseSettings):
    """Read once at start from variables `VOUCHSAFE_<NAME>`; immutable afterwards. `vouchsafe settings` prints it."""

    model_config = SettingsConfigDict(env_prefix="VOUCHSAFE_", frozen=True, extra="forbid")

    valkey_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The gate: a Valkey with appendonly yes, appendfsync always and noeviction; of a Valkey Cluster "
        "the addresses of some nodes, with commas between them.",
    )
    postgres_url: str = Field(
        "postgresql://127.0.0.1:5432/vouchsafe", description="The ledger: a PostgreSQL 15+ database of its own."
    )
    acknowledge: Acknowledge = Field(
        "gate",
        description="When a decision is answered: once Valkey has it on disk (gate), once a replica has it on disk as "
        "well (replica), or once PostgreSQL has committed it (ledger). docs/durability.md says what each survives.",
    )
    host: str = Field("127.0.0.1", description="Address that the gRPC server listens on.")
    port: int = Field(50051, ge=1, le=65535, description="Port that the gRPC server listens on; all workers share it.")
    workers: int = Field(2, ge=1, le=64, description="Worker processes, each with an event loop of its own.")
    partitions: int = Field(
        16,
        ge=1,
        le=100,
        description="Partitions of a new installation; an existing one keeps what it was created with.",
    )
    max_waiting: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Requests to redeem that may be under way in a worker; more are RESOURCE_EXHAUSTED. The worker "
        "lowers this by itself while they take longer than max_wait_ms.",
    )
    max_wait_ms: int = Field(
        250,
        ge=10,
        le=60_000,
        description="How long a call may wait for a worker before it begins to refuse calls (docs/overload.md).",
    )
    max_watchers: int = Field(
        1_000,
        ge=1,
        le=100_000,
        description="Callers that may watch campaigns in a worker at the same time; more are RESOURCE_EXHAUSTED.",
    )
    batch_size: int = Field(128, ge=1, le=1024, description="Items that one call of a gate function decides at most.")
    gate_timeout_ms: int = Field(1_000, ge=10, le=60_000, description="How long the gate may take for an answer.")
    ledger_timeout_ms: int = Field(5_000, ge=10, le=60_000, description="How long the ledger may take for an answer.")
    ledger_pool_size: int = Field(
        4, ge=1, le=100, description="Connections to the ledger that a process holds at most."
    )
    request_ttl_ms: int = Field(
        86_400_000, ge=60_000, le=2_592_000_000, description="How long a request id is remembered with its answer."
    )
    combined_hold_ms: int = Field(
        5_000,
        ge=100,
        le=60_000,
        description="How long deciding several codes together may take; what is left behind then is settled by others.",
    )
    secret: str = Field(
        "",
        description="Keys the hashes of identities that limits count by, and signs quotes; the same on every server, "
        "and never changed while a campaign runs that needs it. At least 16 characters; without it there are no such "
        "campaigns.",
    )
    guess_customer_burst: int = Field(
        10,
        ge=10,
        le=1_000_000,
        description="Codes of a customer that may fail in a row (docs/guessing.md); a request may have as many as 10.",
    )
    guess_customer_interval_ms: int = Field(
        10_000, ge=1, le=3_600_000, description="How long it takes until one more may."
    )
    guess_source_burst: int = Field(
        30,
        ge=10,
        le=1_000_000,
        description="Codes from a source that may fail in a row, whoever the customer is.",
    )
    guess_source_interval_ms: int = Field(
        2_000, ge=1, le=3_600_000, description="How long it takes until one more may."
    )
    guess_principal_burst: int = Field(
        1_000,
        ge=10,
        le=1_000_000,
        description="Codes of a caller that may fail in a row, whoever the customer is.",
    )
    guess_principal_interval_ms: int = Field(
        20, ge=1, le=3_600_000, description="How long it takes until one more may."
    )
    auth: Literal["required", "off"] = Field(
        "required",
        description="Whether callers need credentials (docs/access.md). off, on an address of this machine only: "
        "everybody may do everything.",
    )
    jwt_keys_file: str = Field(
        "", description="Public keys that check signed tokens, as PEM or JWKS; read again when it changes."
    )
    jwt_algorithms: str = Field(
        "RS256,ES256,EdDSA", description="Algorithms that tokens may be signed with; no others can be chosen."
    )
    jwt_issuer: str = Field("", description="Who issues tokens: the claim iss has to be this.")
    jwt_audience: str = Field("", description="Whom tokens are meant for: the claim aud has to have this.")
    tls_cert_file: str = Field(
        "", description="The server's certificate with its chain, as PEM; without it nothing is encrypted."
    )
    tls_key_file: str = Field("", description="Its private key, as PEM. All TLS files are read again when they change.")
    tls_client_ca_file: str = Field(
        "", description="Who signs the certificates of callers, as PEM. With it every caller needs a certificate."
    )
    tls_roles: str = Field(
        "",
        max_length=20_000,
        description="Roles of callers by certificate: checkout-*=checkout,ops=operator. The name is the URI among the "
        "alternative names, or else the common name.",
    )
    api_key: str = Field("", description="For commands that ask a server: the key to ask with.")
    tls_ca_file: str = Field(
        "",
        description="For commands that ask a server: who signs its certificate, as PEM. Without it they do not "
        "encrypt.",
    )
    max_message_bytes: int = Field(
        1_048_576,
        ge=4_096,
        le=16_777_216,
        description="Largest request message; larger ones are RESOURCE_EXHAUSTED. A batch is one: 500 redemptions fit "
        "that have 2 kB each.",
    )
    shutdown_grace_ms: int = Field(
        10_000, ge=0, le=600_000, description="How long calls that are under way may take to finish after SIGTERM."
    )
    persist_batch: int = Field(
        2_000, ge=1, le=50_000, description="Events that one transaction of the persister writes at most."
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port on which a persister tells Prometheus its metrics; 0: none."
    )
    server_metrics_port: int = Field(
        0, ge=0, le=65535, description="Port on which a server tells those of its workers; 0: none."
    )
    audit_interval_ms: int = Field(
        3_600_000, ge=0, description="How often one of the persisters audits the counters of the gate; 0: never."
    )
    outbox_max_entries: int = Field(
        2_000_000,
        ge=1,
        description="Events of all partitions that may wait for PostgreSQL; from there on new uses are UNAVAILABLE.",
    )
    outbox_max_bytes: int = Field(
        1_073_741_824, ge=1, description="Memory that those events may take in Valkey; the same then."
    )
    outbox_max_age_ms: int = Field(
        900_000, ge=1_000, description="How long the oldest of those events may have waited; the same then."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )
    log_format: Literal["json", "console"] = Field("json", description="json: an object a line; console: for people.")

    def shown(self) -> dict[str, Any]:
        """Every value by name, for people to look at: passwords in addresses are masked."""
        values = self.model_dump()
        shown = {name: _masked(value) if isinstance(value, str) else value for name, value in values.items()}
        return shown | {name: "***" if values[name] else "" for name in ("secret", "api_key")}

    @field_validator("secret")
    @classmethod
    def _is_long_enough(cls, value: str) -> str:
        if value and len(value) < 16:
            raise ValueError("has to have at least 16 characters")
        return value


def _masked(value: str) -> str:
    """An address without its password, wherever in the address that stands."""
    value = re.sub(r"(://[^:@]*):.*@", r"\1:***@", value)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", value)
