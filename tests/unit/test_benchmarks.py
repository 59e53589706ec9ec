"""What the benchmarks say is only worth what their own arithmetic is."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace

import pytest

from benchmarks.bench import TURNS
from benchmarks.chart import bench_chart
from benchmarks.function import FunctionRound
from benchmarks.generator import Round, closed_loop, open_loop, percentile
from benchmarks.message import BATCH, RUN, Requests, redeem_request
from benchmarks.pages import PAGE, replaced, table_of
from benchmarks.report import ECHO, OURS, PLAIN, TUNED, Peak, Results, figures, medians, remarks, rows, table
from benchmarks.soak import growth
from benchmarks.targets import TARGETS, judged
from vouchsafe.v1.redemption_service_pb2 import (
    BatchValidateAndRedeemRequest,
    StreamValidateAndRedeemRequest,
    ValidateAndRedeemRequest,
)

CODES = ("BENCH-1", "BENCH-2")


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)])
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert percentile(range(1, 101), share) == value


def test_no_values_have_no_percentile() -> None:
    assert percentile([], 0.5) != percentile([], 0.5)  # not a number


@pytest.mark.parametrize("lines", [1, 3, 100])
def test_bytes_are_the_requests_that_they_stand_for(lines: int) -> None:
    requests = Requests(CODES, lines=lines)
    wanted = [redeem_request(CODES[number % 2], number, lines=lines) for number in range(7, 7 + BATCH)]

    assert ValidateAndRedeemRequest.FromString(requests.unary(7)) == wanted[0]
    assert StreamValidateAndRedeemRequest.FromString(requests.stream(7)).request == wanted[0]
    assert list(BatchValidateAndRedeemRequest.FromString(requests.batch(7)).requests) == wanted
    assert wanted[0].request_id.encode().startswith(requests.id_prefix)
    assert RUN in wanted[0].request_id


def test_codes_of_a_round_are_of_one_length() -> None:
    with pytest.raises(ValueError, match="one length"):
        Requests(["BENCH", "BENCH-1"])


async def test_an_open_loop_counts_from_when_a_call_was_meant_to_start() -> None:
    started = time.perf_counter()
    meant: list[float] = []
    late: list[float] = []

    async def call(intended: float) -> None:
        meant.append(intended - started)
        if len(meant) == 1:
            time.sleep(0.2)  # noqa: ASYNC251  # holds everything up, as a machine that is overloaded does
        late.append(time.perf_counter() - intended)

    await open_loop(call, rate=100, seconds=0.2)

    assert len(meant) == 20
    assert [b - a for a, b in itertools.pairwise(meant)] == pytest.approx([0.01] * 19, abs=1e-6)
    # The second was meant to start 190 ms before it could.
    assert late[1] >= 0.19


async def test_a_closed_loop_ends_when_there_is_no_more() -> None:
    left = 10
    at_once = most = 0

    async def call(_intended: float) -> None:
        nonlocal left, at_once, most
        left -= 1
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    await closed_loop(call, at_once=3, seconds=60, has_more=lambda: left > 0)

    assert left == 0
    assert most == 3


def test_figures_are_ratios_of_rounds_that_ran_beside_each_other() -> None:
    found = figures(_results())

    assert found["unary.vs_empty_echo"] == pytest.approx([0.25, 0.5])
    assert found["unary.cpu_us"] == [300, 300]
    assert found["unary.cpu_vs_echo"] == [2, 2]
    assert found["batch64.vs_valkey_limit"] == pytest.approx([0.16, 0.16])
    assert found["batch64.valkey_cpu_us"] == [20, 20]
    assert found["vs_postgres_only.unary"] == pytest.approx([2, 4])
    assert found["vs_postgres_only.batch64"] == pytest.approx([4, 4])
    assert found["vs_postgres_tuned.unary"] == pytest.approx([1.25, 2.5])
    assert found["vs_postgres_tuned.batch64"] == pytest.approx([1.25, 1.25])
    assert found["persist_lag_p99_ms"] == [150, 150]  # of the way in which it was longest
    assert found["latency_p99_vs_echo"] == [3, 3]


def test_every_target_is_of_a_figure_and_is_judged() -> None:
    found = medians(_results())
    lines = judged(found)

    assert {target.key for target in TARGETS} <= found.keys()
    assert len(lines) == len(TARGETS)
    assert "MISSED   unary.vs_empty_echo: 0.375, at least 0.65 was wanted" in lines
    assert "reached  latency_p99_vs_echo: 3, at most 3 was wanted" in lines
    assert "reached  persist_lag_p99_ms: 150 ms, at most 300 ms was wanted" in lines


def test_the_table_and_the_chart_have_every_side() -> None:
    results = _results()
    assert [(row[0], row[1]) for row in rows(results)][-1] == (f"batch of {BATCH}", "bare function")
    assert table(results).row_count == len(TURNS) + 1
    assert bench_chart(results).count(PLAIN) == 4
    assert bench_chart(results).count(TUNED) == 4


def test_a_remark_says_what_no_answer_can_beat() -> None:
    said = remarks(_results(), load_before=0, disk_sync_ms=0.158)
    assert any(line.startswith("An fsync of 4 KiB took 0.16 ms before the start.") for line in said)


def test_a_page_keeps_what_is_around_its_figures() -> None:
    page = "a\n\n<!-- begin x -->\n\nold\n\n<!-- end x -->\n\nb\n"
    assert replaced(page, "x", "new") == page.replace("old", "new")
    assert replaced(replaced(page, "x", "new"), "x", "old") == page
    with pytest.raises(ValueError, match="no place for y"):
        replaced(page, "y", "new")


@pytest.mark.parametrize("name", ["bench", "growth"])
def test_the_page_has_a_place_for_all_figures(name: str) -> None:
    assert replaced(PAGE.read_text(), name, "new") != PAGE.read_text()


def test_columns_of_numbers_stand_to_the_right() -> None:
    assert table_of(["of", "many"], [["codes", "1"]], texts=1).splitlines() == [
        "| of    | many |",
        "| ----- | ---: |",
        "| codes |    1 |",
    ]


def test_memory_grows_from_the_middle_on() -> None:
    assert growth([50, 80, 100, 104, 110]) == pytest.approx(0.1)


def _results() -> Results:
    """Two rounds: unary 1,000 and 2,000 items/s beside 4,000 of the echo, batches of 8,000 beside 50,000."""
    results = Results()
    for way, name in TURNS:
        for number in (1, 2):
            items = {OURS: 1_000 * number, ECHO: 4_000, PLAIN: 500, TUNED: 800}[name]
            if way == "batch":
                items = {OURS: 8_000, ECHO: 200_000, PLAIN: 2_000, TUNED: 6_400}[name]
            done = Round(
                calls=items // BATCH if way == "batch" else items,
                items=items,
                seconds=1.0,
                p50_ms=1.0,
                p99_ms=6.0 if name == OURS else 2.0,
                p999_ms=9.0,
                cpu_s=0.5,
                cancelled=0,
                outcomes={},
                failures=[],
            )
            cpu_us = {"server": 300.0 if name == OURS else 150.0}
            if name == OURS:
                cpu_us |= {"Valkey": 20.0, "PostgreSQL": 10.0, "persister": 5.0}
            lag_p99_ms = {"unary": 120.0, "stream": 150.0, "batch": 90.0}[way] if name == OURS else None
            results.peak.setdefault((way, name), []).append(Peak(done, cpu_us, lag_p99_ms))
            results.open_loop.setdefault((way, name), []).append(replace(done, calls=done.calls // 2))
        results.rates[way, name] = 0.7 * done.calls
    results.function = [FunctionRound(items_per_s=50_000, valkey_us=14)] * 2
    return results
