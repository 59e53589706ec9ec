"""The gate held against a plain Python model, over random sequences of all that is asked of it, while time moves.

`make model` runs many more sequences than `make test`.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.gate.choices import BEGINS, Step, definitions, steps
from tests.gate.stage import CAMPAIGNS, Stage
from tests.gate.steps import Steps
from vouchsafe.domain.campaign import Definition
from vouchsafe.settings import Settings

STEPS = 50


class Sequence(RuleBasedStateMachine):
    """One sequence of steps; all of them on one stage."""

    stage: Stage
    runner: asyncio.Runner

    @initialize(begin_ms=st.sampled_from(BEGINS), definitions=st.tuples(*[definitions] * len(CAMPAIGNS)))
    def begin(self, begin_ms: int, definitions: tuple[Definition, ...]) -> None:
        self._steps = Steps(self.stage, begin_ms)
        self.runner.run(self._steps.begin(definitions))

    @rule(step=steps)
    def take(self, step: Step) -> None:
        self.runner.run(self._steps.take(step))


@pytest.mark.usefixtures("moved_clock")
@pytest.mark.timeout(3_600)  # the full number of sequences takes minutes, and so does making one that fails short
def test_any_sequence_is_decided_as_the_model_decides_it(
    valkey_url: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asyncio.Runner() as runner:
        stage = runner.run(Stage.connect(Settings(valkey_url=valkey_url, gate_timeout_ms=60_000)))
        monkeypatch.setattr(Sequence, "stage", stage, raising=False)
        monkeypatch.setattr(Sequence, "runner", runner, raising=False)
        try:
            run_state_machine_as_test(
                Sequence,
                settings=settings(
                    max_examples=pytestconfig.getoption("sequences"),
                    stateful_step_count=STEPS,
                    deadline=None,
                    report_multiple_bugs=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stage.close())
