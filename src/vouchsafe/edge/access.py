"""Who may: credentials become a principal, and the protos say which roles may call a method."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc.aio import ServicerContext

from vouchsafe.domain.access import ANYBODY, Principal, Role
from vouchsafe.domain.errors import Misconfigured, PermissionDenied, Unauthenticated
from vouchsafe.edge.certificates import Certificates
from vouchsafe.edge.peers import Strangers
from vouchsafe.edge.tokens import Tokens
from vouchsafe.service.caller import caller
from vouchsafe.service.keys import NOT_VALID, PREFIX, Keys
from vouchsafe.settings import Settings
from vouchsafe.v1 import access_pb2, audit_service_pb2, campaign_service_pb2, code_service_pb2, redemption_service_pb2

SERVICES: tuple[ServiceDescriptor, ...] = (
    redemption_service_pb2.DESCRIPTOR.services_by_name["RedemptionService"],
    campaign_service_pb2.DESCRIPTOR.services_by_name["CampaignService"],
    code_service_pb2.DESCRIPTOR.services_by_name["CodeService"],
    audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"],
)
NOTHING_SENT = "send the metadata `authorization: Bearer <API key or token>`"
OR_CERTIFICATE = ", or connect with a client certificate"

log = structlog.get_logger()


def roles_by_method(services: Iterable[ServiceDescriptor] = SERVICES) -> Mapping[str, frozenset[Role]]:
    """The roles that may call each method, by its path "/package.Service/Method". A method without any is not there."""
    found = {}
    for service in services:
        for method in service.methods:
            names = map(access_pb2.Role.Name, method.GetOptions().Extensions[access_pb2.roles])
            roles = frozenset(Role(name.removeprefix("ROLE_").lower()) for name in names)
            if roles:
                found[f"/{service.full_name}/{method.name}"] = roles | {Role.ADMIN}
    return found


def require(what: str, *roles: Role) -> None:
    """Raises PermissionDenied when the caller has none of these roles, nor admin. `what` is a part of a message that is
    not for everybody who may call its method."""
    principal, allowed = caller.get(), frozenset((*roles, Role.ADMIN))
    if allowed.isdisjoint(principal.roles):
        raise PermissionDenied(
            f"{what} is for the roles {_listed(allowed)}; {principal.name} has {_listed(principal.roles)}"
        )


class Access:
    """Decides for each call. Raises Misconfigured when the settings would let in whom nobody knows."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._roles = roles_by_method()
        self._keys = keys
        self._strangers = Strangers()
        self._tokens = Tokens(settings) if settings.jwt_keys_file else None
        self._certificates = Certificates(settings) if settings.tls_client_ca_file else None
        self._is_off = settings.auth == "off"
        is_local = _is_loopback(settings.host)
        if self._is_off and not is_local:
            raise Misconfigured(
                f"VOUCHSAFE_AUTH=off would let everybody who reaches {settings.host} do everything; leave it on, or "
                "listen on 127.0.0.1"
            )
        if self._is_off:
            log.warning("nobody is asked for credentials: who reaches this machine may do everything")
        elif not is_local and not settings.tls_cert_file:
            log.warning(
                "credentials arrive unencrypted; set VOUCHSAFE_TLS_CERT_FILE, or let something encrypt in front"
            )

    def admit(self, method: str, context: ServicerContext[Any, Any]) -> Principal:
        """Who calls. Raises Unauthenticated, PermissionDenied, Throttled when credentials from one address were wrong
        too often, and Unavailable while the keys could not be read yet."""
        try:
            principal = ANYBODY if self._is_off else self._principal(context)
        except Unauthenticated:
            self._strangers.note(context.peer())
            raise
        allowed = self._roles.get(method, frozenset())
        if allowed.isdisjoint(principal.roles):
            raise PermissionDenied(
                f"{method} is for the roles {_listed(allowed)}; {principal.name} has {_listed(principal.roles)}"
            )
        return principal

    def _principal(self, context: ServicerContext[Any, Any]) -> Principal:
        sent = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
        if not sent:
            # What is sent counts before the certificate: a gateway may have one, and its callers keys.
            found = self._certificates.principal_of(context.auth_context()) if self._certificates else None
            if found is None:
                raise Unauthenticated(NOTHING_SENT + (OR_CERTIFICATE if self._certificates else ""))
            return found
        scheme, _, token = sent[0].partition(" ") if isinstance(sent[0], str) else ("", "", "")
        if len(sent) > 1 or scheme.lower() != "bearer":
            raise Unauthenticated(NOTHING_SENT)
        if token.startswith(PREFIX):
            return self._keys.principal_of(token)
        if self._tokens is None:
            raise Unauthenticated(NOT_VALID)
        return self._tokens.principal_of(token)


def _listed(roles: Iterable[Role]) -> str:
    return ", ".join(role for role in Role if role in set(roles)) or "(none)"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
