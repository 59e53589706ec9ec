"""By what limits count shoppers and orders."""

from __future__ import annotations

from collections.abc import Mapping

from vouchsafe.domain.conditions import AttributeSource
from vouchsafe.domain.limits import AttributeLimit, IdentityKind
from vouchsafe.domain.order import Customer, Order

# What the checkout has to send for each kind.
IDENTITY_FIELDS: Mapping[IdentityKind, str] = {
    IdentityKind.CUSTOMER_ID: "customer.id",
    IdentityKind.EMAIL: "customer.email",
    IdentityKind.CARD: "customer.card_fingerprint",
    IdentityKind.DEVICE: "customer.device_id",
}
# At some providers an address reaches the same box with dots left out.
_WITHOUT_DOTS = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}


def attribute_value(limit: AttributeLimit, customer: Customer, order: Order) -> str:
    """What an attribute's limit counts by; empty when the checkout did not send it."""
    values = customer.attributes if limit.source is AttributeSource.CUSTOMER else order.metadata
    return values.get(limit.key, "")


def identity(kind: IdentityKind, customer: Customer) -> str:
    """What a shopper is known by; empty when the checkout did not send it."""
    match kind:
        case IdentityKind.CUSTOMER_ID:
            return customer.id
        case IdentityKind.EMAIL:
            return normalised_email(customer.email)
        case IdentityKind.CARD:
            return customer.card_fingerprint
        case IdentityKind.DEVICE:
            return customer.device_id


def normalised_email(address: str) -> str:
    """The box that an address reaches: without capitals, without what stands behind a plus, and where the provider does
    not look at dots, without those. Empty for what is no address."""
    box, at, domain = address.strip().lower().rpartition("@")
    box = box.split("+", 1)[0]
    if not (box and at and domain):
        return ""
    if domain in _WITHOUT_DOTS:
        box, domain = box.replace(".", ""), _WITHOUT_DOTS[domain]
    return f"{box}@{domain}"
