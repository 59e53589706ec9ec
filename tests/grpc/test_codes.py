"""Codes through real gRPC: generated, imported, exported, listed, given away, stopped."""

from __future__ import annotations

import asyncio
import csv
import io
import uuid
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime

import pytest
from google.protobuf.json_format import ParseDict

from tests.grpc.test_combined import create, reason
from tests.service import Service, a_campaign, an_order, until
from vouchsafe.client import (
    AlreadyExists,
    CampaignDefinition,
    Client,
    ClientError,
    CodeFilter,
    CodeForm,
    CodeState,
    Customer,
    InvalidArgument,
    NotFound,
    OperationState,
    Redemption,
    Refusal,
    RequestIdReused,
)
from vouchsafe.v1.code_service_pb2 import ListCodesRequest

AVAILABLE, ASSIGNED, DISABLED = (
    CodeState.CODE_STATE_AVAILABLE,
    CodeState.CODE_STATE_ASSIGNED,
    CodeState.CODE_STATE_DISABLED,
)


async def refused(outcome: Awaitable[Redemption | Refusal]) -> str:
    found = await outcome
    assert isinstance(found, Refusal)
    return reason(found)


async def generated(client: Client, campaign: str, count: int, form: CodeForm | None = None) -> list[str]:
    """Codes that are all there."""
    begun = await client.generate_codes(campaign, count, form=form)
    async for operation in client.follow_operation(begun.id):
        assert operation.done_count <= count
    assert operation.state == OperationState.OPERATION_STATE_SUCCEEDED, operation
    pattern = operation.pattern
    codes = [code.code async for code in client.list_codes(CodeFilter(campaign_id=campaign), page_size=500)]
    return [code for code in codes if len(code) == len(pattern)]


async def pieces(text: str | bytes, size: int = 7) -> AsyncIterator[bytes]:
    """A file in pieces that end anywhere."""
    data = text.encode() if isinstance(text, str) else text
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_used_codes_and_the_others_are_listed_page_by_page(client: Client) -> None:
    campaign, code = await a_campaign(client, single_use=1_234)
    used = {f"{code}-{number}" for number in (0, 7, 300, 1_233)}
    for one in used:
        assert isinstance(await client.redeem(one, Customer(id="c"), an_order(f"o-{one}")), Redemption)
    held = f"{code}-500"
    assert (await client.reserve([held], Customer(id="c"), an_order(f"o-{held}"), ttl_s=600)).reservation.id
    wanted = CodeFilter(campaign_id=campaign)
    for page_size in (1, 3, 500):
        found = [one.code async for one in client.list_codes(wanted, is_used=True, page_size=page_size)]
        assert found == sorted({*used, held})
    everything = [one.code async for one in client.list_codes(wanted, page_size=500)]
    for page_size in (97, 500):
        others = [one.code async for one in client.list_codes(wanted, is_used=False, page_size=page_size)]
        assert others == [one for one in everything if one not in {*used, held}]


async def test_generated_codes_are_exactly_as_many_and_in_the_form_asked_for(client: Client) -> None:
    campaign, _ = await a_campaign(client)
    form = CodeForm(charset="abcdef23456789", prefix="gift-", pattern="######-######", postfix="_x")
    codes = await generated(client, campaign, 12_345, form)
    assert len(set(codes)) == len(codes) == 12_345
    for code in codes:
        assert code.startswith("GIFT-")
        assert code.endswith("_X")
        body = code[5:-2]
        assert set(body) <= set("ABCDEF23456789-")
        assert body[6] == "-"
    # Every one can be redeemed, once, however it is spelled.
    order = an_order(codes[7])
    assert isinstance(await client.redeem(codes[7].lower(), Customer(id="c"), order), Redemption)
    assert await refused(client.redeem(codes[7], Customer(id="c"), an_order(codes[8]))) == "CODE_LIMIT_REACHED"


async def test_an_operation_is_repeated_by_its_id_only(client: Client) -> None:
    campaign, _ = await a_campaign(client)
    begun = await client.generate_codes(campaign, 100)
    again = await client.generate_codes(campaign, 100, operation_id=begun.id)
    assert (again.id, again.create_time) == (begun.id, begun.create_time)
    with pytest.raises(RequestIdReused):
        await client.generate_codes(campaign, 101, operation_id=begun.id)
    for form in (CodeForm(length=13), CodeForm(charset="ABCDEFGHJK")):
        with pytest.raises(RequestIdReused):
            await client.generate_codes(campaign, 100, form=form, operation_id=begun.id)
    with pytest.raises(NotFound):
        await client.generate_codes("no-such-campaign", 1)
    with pytest.raises(NotFound):
        await client.get_operation("no-such-operation")
    assert [one.id async for one in client.list_operations(campaign_id=campaign)] == [begun.id]
    more = [(await client.generate_codes(campaign, 1)).id for _ in range(4)]
    found = [one.id async for one in client.list_operations(campaign_id=campaign, page_size=2)]
    assert sorted(found) == sorted([begun.id, *more])


@pytest.mark.parametrize(
    ("count", "form", "told"),
    [
        # 31^8 is less than a million times a million.
        (1_000_000, CodeForm(length=8), "give a length of 9 or more"),
        (1, CodeForm(pattern="SUMMER-###"), "give a length of 5 or more"),
        (10, CodeForm(charset="AB", length=10), "give a length of 24 or more"),
    ],
    ids=["many", "short", "two-characters"],
)
async def test_codes_that_could_be_guessed_are_refused_with_what_would_do(
    client: Client, count: int, form: CodeForm, told: str
) -> None:
    campaign, _ = await a_campaign(client)
    with pytest.raises(InvalidArgument) as caught:
        await client.generate_codes(campaign, count, form=form)
    assert told in caught.value.violations["form"]


async def test_codes_of_the_same_form_count_together(client: Client) -> None:
    campaign, _ = await a_campaign(client)
    # 36^4 is room for one code, and for no second.
    form = CodeForm(charset="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", prefix=f"P{uuid.uuid4().hex}-"[:30], length=4)
    assert len(await generated(client, campaign, 1, form)) == 1
    with pytest.raises(InvalidArgument):
        await client.generate_codes(campaign, 1, form=form)


@pytest.mark.parametrize(
    "form",
    [
        CodeForm(charset="AA"),
        CodeForm(charset="aAbc"),
        CodeForm(charset="\u00e9\u00e8"),
        CodeForm(length=65),
        CodeForm(length=40, prefix="P" * 32),
        CodeForm(length=12, pattern="####"),
        CodeForm(pattern="NO-GAPS"),
        CodeForm(prefix="has space"),
    ],
    ids=repr,
)
async def test_forms_that_make_no_codes_are_refused(client: Client, form: CodeForm) -> None:
    campaign, _ = await a_campaign(client)
    for ask in (client.generate_codes(campaign, 1, form=form), client.gift_code(campaign, "c", form=form)):
        with pytest.raises(InvalidArgument):
            await ask


async def test_an_import_tells_bad_lines_by_number_and_imports_the_rest(client: Client) -> None:
    campaign, shared = await a_campaign(client)
    name = f"I{uuid.uuid4().hex[:20]}"
    text = "\r\n".join(
        [
            "use_limit,code,customer_id",
            f"1,{name}-1,",
            f"3,{name}-2,c-42",
            f'1,"{name}-3",',
            f"1,{name}-1,",  # 5: the same again
            f"1,{name} 4,",  # 6: no code
            "",
            f"0,{name}-5,",  # 8
            f"1,{name}-6",  # 9
            f"1,{shared},",  # 10: another campaign's
            f"1,{name}-7,spa ce",  # 11
            "x" * 2_000,  # 12
            f'1,"{name}-8,',  # 13
            f",{name}-9,",
        ]
    )
    data = text.encode().replace(f"1,{name}-7".encode(), f"1,\xff{name}-7".encode("latin-1"))
    for size in (7, 1_000_000):
        report = await client.import_codes(campaign, pieces(data, size))
        reasons = {line.line: line.reason for line in report.bad_lines}
        if size == 7:
            assert report.imported_count == 4
            assert sorted(reasons) == [5, 6, 8, 9, 10, 11, 12, 13]
            assert "line 2" in reasons[5]
            assert reasons[9].startswith("has 2 values")
            assert reasons[10] == "code: exists already"
        else:  # sent again, nothing is new
            assert report.imported_count == 0
            assert sorted(reasons) == [*range(2, 7), *range(8, 15)]
    given = await client.get_code(f"{name}-2")
    assert (given.use_limit, given.customer_id, given.state) == (3, "c-42", ASSIGNED)
    assert isinstance(await client.redeem(f"{name}-9", Customer(id="c"), an_order(name)), Redemption)


async def test_all_or_nothing_imports_nothing_when_a_line_is_bad(client: Client) -> None:
    campaign, _ = await a_campaign(client)
    name = f"I{uuid.uuid4().hex[:20]}"
    lines = ["code", *(f"{name}-{number}" for number in range(5_000))]
    report = await client.import_codes(campaign, pieces("\n".join([*lines, "?"]), 50_000), all_or_nothing=True)
    assert (report.imported_count, report.bad_line_count) == (0, 1)
    assert report.bad_lines[0].line == 5_002
    with pytest.raises(NotFound):
        await client.get_code(f"{name}-0")
    report = await client.import_codes(campaign, pieces("\n".join(lines), 50_000), all_or_nothing=True)
    assert (report.imported_count, report.bad_line_count) == (5_000, 0)
    assert (await client.get_code(f"{name}-4999")).state == AVAILABLE


@pytest.mark.parametrize(
    "text", ["", "campaign,code\nx,y\n", "code,code\nA,B\n", "AAAA\nBBBB\n", '"code\n', "x" * 5_000]
)
async def test_a_file_whose_first_line_says_nothing_is_refused(client: Client, text: str) -> None:
    campaign, _ = await a_campaign(client)
    with pytest.raises(InvalidArgument) as caught:
        await client.import_codes(campaign, pieces(text, 1_000))
    assert "csv" in caught.value.violations


async def test_what_is_exported_can_be_imported(client: Client) -> None:
    campaign, shared = await a_campaign(client)
    codes = await generated(client, campaign, 3_000)
    await client.assign_code(codes[0], 'a,"b"', valid_for_s=3_600)
    wanted = CodeFilter(campaign_id=campaign)
    text = b"".join([piece async for piece in client.export_codes(wanted)]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["code"] for row in rows] == sorted([*codes, shared])
    given = next(row for row in rows if row["code"] == codes[0])
    assert (given["customer_id"], given["use_limit"], given["state"]) == ('a,"b"', "1", "assigned")
    times = [datetime.fromisoformat(given[name]) for name in ("assign_time", "expire_time")]
    assert (times[1] - times[0]).total_seconds() == 3_600


async def test_listings_are_narrowed_by_campaign_state_and_customer(client: Client) -> None:
    campaign, shared = await a_campaign(client)
    codes = await generated(client, campaign, 40)
    customer = f"c-{uuid.uuid4()}"
    for code in codes[:10]:
        await client.assign_code(code, customer)
    for code in codes[8:12]:
        await client.disable_code(code, "lost")

    async def found(**fields: object) -> list[str]:
        wanted = CodeFilter(**fields)  # type: ignore[arg-type]  # as they are given
        return [code.code async for code in client.list_codes(wanted, page_size=3)]

    async def has_followed() -> bool:  # what the ledger tells is a moment behind
        return await found(campaign_id=campaign, state=DISABLED) == codes[8:12]

    await until(has_followed)
    assert await found(campaign_id=campaign) == sorted([*codes, shared])
    assert await found(campaign_id=campaign, state=ASSIGNED) == codes[:8]
    assert await found(campaign_id=campaign, state=AVAILABLE) == sorted([*codes[12:], shared])
    assert await found(customer_id=customer) == codes[:10]
    assert await found(customer_id=customer, state=DISABLED) == codes[8:10]
    for token in ("x", "bm8=", "WzFd"):
        with pytest.raises(InvalidArgument):
            await client._call(lambda: next(client._codes).ListCodes, ListCodesRequest(page_token=token))


async def test_a_code_is_given_once_and_is_valid_from_then_on(client: Client) -> None:
    definition = ParseDict(
        {
            "display_name": "Sorry",
            "effects": [{"percent_off": {"basis_points": 1_000}}],
            "conditions": [{"holder_only": {}}],
            "code_validity": "3600s",
        },
        CampaignDefinition(),
    )
    campaign = f"c-{uuid.uuid4()}"
    await client.create_campaign(campaign, definition)
    first, second, third = await generated(client, campaign, 3)
    given = await client.assign_code(first, "c-1", valid_for_s=1)
    assert given.expire_time.ToMilliseconds() - given.assign_time.ToMilliseconds() == 1_000
    assert abs(given.assign_time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 30
    assert await client.assign_code(first, "c-1", valid_for_s=60) == given
    with pytest.raises(AlreadyExists):
        await client.assign_code(first, "c-2")
    assert await refused(client.redeem(first, Customer(id="c-2"), an_order("o-2"))) == "NOT_THE_HOLDER"

    async def is_over() -> bool:
        outcome = await client.validate(first, Customer(id="c-1"), an_order("o-1"))
        return isinstance(outcome, Refusal) and reason(outcome) == "CODE_EXPIRED"

    await until(is_over)
    # What was said when it was given outweighs the campaign, in both directions.
    await client.assign_code(second, "c-1", valid_for_s=10 * 365 * 86_400)
    assert isinstance(await client.redeem(second, Customer(id="c-1"), an_order(second)), Redemption)
    unsaid = await client.assign_code(third, "c-1")
    assert not unsaid.HasField("expire_time")
    with pytest.raises(NotFound):
        await client.assign_code("no-such-code", "c-1")


async def test_a_code_for_many_is_given_to_nobody(client: Client) -> None:
    _, shared = await a_campaign(client)
    with pytest.raises(InvalidArgument) as caught:
        await client.assign_code(shared, "c-1")
    assert "without limit" in caught.value.violations["code"]


async def test_a_gift_is_one_code_however_often_it_is_asked_for(client: Client) -> None:
    campaign, _ = await a_campaign(client)
    request_id = f"gift-{campaign}"
    gifts = await asyncio.gather(
        *(client.gift_code(campaign, "c-42", request_id=request_id, valid_for_s=60) for _ in range(16))
    )
    assert len({gift.code for gift in gifts}) == 1
    assert len(gifts[0].code) == 12
    with pytest.raises(RequestIdReused):
        await client.gift_code(campaign, "c-43", request_id=request_id)
    with pytest.raises(NotFound):
        await client.gift_code("no-such-campaign", "c-42")
    others = {(await client.gift_code(campaign, "c-42")).code for _ in range(5)}
    assert len(others) == 5
    assert isinstance(await client.redeem(gifts[0].code, Customer(id="c-42"), an_order(request_id)), Redemption)
    assert (await client.get_code(gifts[0].code)).used_count == 1


async def test_a_disabled_code_is_refused_and_its_campaign_goes_on(client: Client) -> None:
    code, other = await create(client), await create(client)
    held = (await client.reserve([code], Customer(id="c"), an_order(f"{code}-held"))).reservation
    disabled = await client.disable_code(code, "leaked")
    assert (disabled.state, disabled.disabled_reason) == (DISABLED, "leaked")
    assert await client.disable_code(code, "again") == disabled
    for number, codes in enumerate(([code], [code, other], [other, code])):
        outcome = await client.redeem_codes(codes, Customer(id="c"), an_order(f"{code}-{number}"))
        assert reason(outcome.refusal) == "CODE_DISABLED"
    validated = await client.validate(code, Customer(id="c"), an_order(code))
    assert isinstance(validated, Refusal)
    assert reason(validated) == "CODE_DISABLED"
    assert await refused(client.confirm(held.id)) == "CODE_DISABLED"
    assert isinstance(await client.redeem(other, Customer(id="c"), an_order(other)), Redemption)
    enabled = await client.enable_code(code)
    assert (enabled.state, enabled.disabled_reason) == (AVAILABLE, "")
    assert await client.enable_code(code) == enabled
    assert isinstance(await client.confirm(held.id), Redemption)
    assert isinstance(await client.redeem(code, Customer(id="c"), an_order(f"{code}-9")), Redemption)
    for ask in (client.disable_code, client.enable_code, client.get_code):
        with pytest.raises(NotFound):
            await ask("no-such-code")


async def test_codes_never_appear_in_the_log(service: Service, client: Client) -> None:
    campaign, shared = await a_campaign(client)
    gift = await client.gift_code(campaign, "c-1")
    await client.disable_code(gift.code, "x")
    with pytest.raises(ClientError):
        await client.assign_code(shared, "c-1")
    for command in ("serve", "persist"):
        assert gift.code not in service.said(command)
        assert shared not in service.said(command)
