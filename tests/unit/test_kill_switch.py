"""What partitions say of kill switches together: "off" is told from "not known"."""

from __future__ import annotations

from vouchsafe.domain.kill_switch import EVERYTHING, Engaged, KillSwitch, SwitchState, combine

EARLY, LATE = Engaged("early", 1), Engaged("late", 2)


def test_nothing_is_engaged_only_if_all_say_so() -> None:
    assert combine([{}, {}]).state is SwitchState.RELEASED
    unsure = combine([{}, None])
    assert (unsure.state, unsure.unreachable, unsure.partitions) == (SwitchState.UNKNOWN, 1, 2)
    assert unsure.of(EVERYTHING).state is SwitchState.UNKNOWN
    assert combine([{}, {}]).of(EVERYTHING).state is SwitchState.RELEASED


def test_a_switch_is_engaged_only_if_all_say_so() -> None:
    found = combine([{EVERYTHING: LATE}, {EVERYTHING: EARLY}])
    assert found.state is SwitchState.ENGAGED
    assert found.of(EVERYTHING) == KillSwitch(EVERYTHING, SwitchState.ENGAGED, "early", 1, 2)
    assert combine([{EVERYTHING: EARLY}, {}]).of(EVERYTHING).state is SwitchState.PARTLY_ENGAGED
    assert combine([{EVERYTHING: EARLY}, None]).of(EVERYTHING).state is SwitchState.UNKNOWN


def test_one_code_is_not_everything() -> None:
    found = combine([{"code:A": EARLY, "label:b": LATE}, {"code:A": EARLY}])
    assert found.state is SwitchState.PARTLY_ENGAGED
    assert [(one.scope, one.state) for one in found.switches] == [
        ("code:A", SwitchState.ENGAGED),
        ("label:b", SwitchState.PARTLY_ENGAGED),
    ]
