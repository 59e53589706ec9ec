"""The Python client.

    async with Client("127.0.0.1:50051") as client:
        outcome = await client.redeem("WELCOME", Customer(id="c-1"), order)
        match outcome:
            case Redemption():
                charge(order_amount - outcome.discount_minor)
            case Refusal():
                tell(outcome.message)

Outcomes and arguments are the messages of `vouchsafe.v1`; whatever else goes wrong is a `ClientError`.
"""

from vouchsafe.client._client import Client
from vouchsafe.client._errors import (
    AlreadyExists,
    ClientError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    ServerError,
    Unavailable,
)
from vouchsafe.v1.campaign_pb2 import (
    AmountDiscount,
    Campaign,
    CampaignDefinition,
    CampaignState,
    Limits,
    PercentDiscount,
)
from vouchsafe.v1.money_pb2 import Money
from vouchsafe.v1.order_pb2 import Customer, Order, OrderLine
from vouchsafe.v1.redemption_pb2 import AppliedCode, Offer, Redemption
from vouchsafe.v1.refusal_pb2 import Refusal, RefusalReason

__all__ = [
    "AlreadyExists",
    "AmountDiscount",
    "AppliedCode",
    "Campaign",
    "CampaignDefinition",
    "CampaignState",
    "Client",
    "ClientError",
    "Customer",
    "DeadlineExceeded",
    "InvalidArgument",
    "Limits",
    "Money",
    "NotFound",
    "Offer",
    "Order",
    "OrderLine",
    "PercentDiscount",
    "Redemption",
    "Refusal",
    "RefusalReason",
    "RequestIdReused",
    "ServerError",
    "Unavailable",
]
