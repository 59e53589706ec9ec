"""The Python client.

    async with Client("127.0.0.1:50051", api_key=os.environ["VOUCHSAFE_API_KEY"]) as client:
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
    Changed,
    ClientError,
    DeadlineExceeded,
    InvalidArgument,
    NotAllowed,
    NotFound,
    PermissionDenied,
    RequestIdReused,
    ServerError,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from vouchsafe.v1.audit_service_pb2 import AuditEvent, AuditEventFilter
from vouchsafe.v1.campaign_pb2 import Campaign, CampaignCounters, CampaignState, CampaignStats
from vouchsafe.v1.campaign_service_pb2 import AssignedCode, GetKillSwitchResponse
from vouchsafe.v1.code_pb2 import Code, CodeForm, CodeState, Operation, OperationState
from vouchsafe.v1.code_service_pb2 import BadLine, CodeFilter, ImportCodesResponse
from vouchsafe.v1.combining_pb2 import Combining, Coverage, Sequencing
from vouchsafe.v1.condition_pb2 import CelExpression, Condition
from vouchsafe.v1.definition_pb2 import CampaignDefinition, Limits, Stacking
from vouchsafe.v1.effect_pb2 import AmountOff, Effect, FreeShipping, PercentOff, Target, TargetKind
from vouchsafe.v1.kill_switch_pb2 import KillSwitch, KillSwitchScope, KillSwitchState
from vouchsafe.v1.order_pb2 import Customer, Order, OrderLine
from vouchsafe.v1.planned_change_pb2 import (
    ChangePlan,
    PlannedChange,
    PlannedChangeState,
    PlannedPause,
    PlannedResume,
    PlannedUpdate,
)
from vouchsafe.v1.redemption_pb2 import AppliedCode, DiscountCap, LineDiscount, Offer, Redemption
from vouchsafe.v1.redemption_service_pb2 import (
    ReserveRedemptionResponse,
    ValidateAndRedeemRequest,
    ValidateAndRedeemResponse,
    ValidateResponse,
)
from vouchsafe.v1.refusal_pb2 import Refusal, RefusalReason
from vouchsafe.v1.reservation_pb2 import Reservation
from vouchsafe.v1.rollback_pb2 import OnPartial, ReturnedLine, Rollback, RollbackPolicy, RolledBackCode
from vouchsafe.v1.schedule_pb2 import Schedule
from vouchsafe.v1.trace_pb2 import CodeTrace
from vouchsafe.v1.trial_pb2 import TrialReport

__all__ = [
    "AlreadyExists",
    "AmountOff",
    "AppliedCode",
    "AssignedCode",
    "AuditEvent",
    "AuditEventFilter",
    "BadLine",
    "Campaign",
    "CampaignCounters",
    "CampaignDefinition",
    "CampaignState",
    "CampaignStats",
    "CelExpression",
    "ChangePlan",
    "Changed",
    "Client",
    "ClientError",
    "Code",
    "CodeFilter",
    "CodeForm",
    "CodeState",
    "CodeTrace",
    "Combining",
    "Condition",
    "Coverage",
    "Customer",
    "DeadlineExceeded",
    "DiscountCap",
    "Effect",
    "FreeShipping",
    "GetKillSwitchResponse",
    "ImportCodesResponse",
    "InvalidArgument",
    "KillSwitch",
    "KillSwitchScope",
    "KillSwitchState",
    "Limits",
    "LineDiscount",
    "NotAllowed",
    "NotFound",
    "Offer",
    "OnPartial",
    "Operation",
    "OperationState",
    "Order",
    "OrderLine",
    "PercentOff",
    "PermissionDenied",
    "PlannedChange",
    "PlannedChangeState",
    "PlannedPause",
    "PlannedResume",
    "PlannedUpdate",
    "Redemption",
    "Refusal",
    "RefusalReason",
    "RequestIdReused",
    "Reservation",
    "ReserveRedemptionResponse",
    "ReturnedLine",
    "Rollback",
    "RollbackPolicy",
    "RolledBackCode",
    "Schedule",
    "Sequencing",
    "ServerError",
    "Stacking",
    "Target",
    "TargetKind",
    "Throttled",
    "TrialReport",
    "Unauthenticated",
    "Unavailable",
    "ValidateAndRedeemRequest",
    "ValidateAndRedeemResponse",
    "ValidateResponse",
]
