"""Between messages and domain values: kill switches."""

from __future__ import annotations

from vouchsafe.domain.campaign import normalise_code
from vouchsafe.domain.kill_switch import CODE, EVERYTHING, LABEL, KillSwitch, KillSwitches, SwitchState
from vouchsafe.edge.convert import timestamp
from vouchsafe.v1 import kill_switch_pb2 as pb
from vouchsafe.v1.campaign_service_pb2 import GetKillSwitchResponse

STATES = {
    SwitchState.ENGAGED: pb.KILL_SWITCH_STATE_ENGAGED,
    SwitchState.RELEASED: pb.KILL_SWITCH_STATE_RELEASED,
    SwitchState.PARTLY_ENGAGED: pb.KILL_SWITCH_STATE_PARTLY_ENGAGED,
    SwitchState.UNKNOWN: pb.KILL_SWITCH_STATE_UNKNOWN,
}


def scope_text(message: pb.KillSwitchScope) -> str:
    """A scope as the domain names it."""
    match message.WhichOneof("scope"):
        case "label":
            return LABEL + message.label
        case "code":
            return CODE + normalise_code(message.code)
        case _:
            return EVERYTHING


def switch_message(switch: KillSwitch) -> pb.KillSwitch:
    """A kill switch."""
    message = pb.KillSwitch(
        scope=_scope_message(switch.scope),
        state=STATES[switch.state],
        reason=switch.reason,
        engaged_partitions=switch.engaged_partitions,
    )
    if switch.engage_time_ms is not None:
        message.engage_time.CopyFrom(timestamp(switch.engage_time_ms))
    return message


def switches_message(found: KillSwitches) -> GetKillSwitchResponse:
    """All of them."""
    return GetKillSwitchResponse(
        state=STATES[found.state],
        kill_switches=map(switch_message, found.switches),
        unreachable_partitions=found.unreachable,
        partitions=found.partitions,
    )


def _scope_message(scope: str) -> pb.KillSwitchScope:
    if scope.startswith(LABEL):
        return pb.KillSwitchScope(label=scope.removeprefix(LABEL))
    if scope.startswith(CODE):
        return pb.KillSwitchScope(code=scope.removeprefix(CODE))
    return pb.KillSwitchScope(everything=True)
