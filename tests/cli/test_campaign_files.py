"""Campaign files, as an operator writes them: tested without a server, and applied to a running one."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from tests.cli.test_cli import vouchsafe
from tests.service import Service
from vouchsafe.cli import app
from vouchsafe.cli.apply import apply_file
from vouchsafe.cli.files import MAX_BYTES, read, read_tree, write_tree
from vouchsafe.client import Campaign, CampaignDefinition, Client
from vouchsafe.edge.files import duration_ms, moment_ms, normal, tree_of

EXAMPLES = sorted((Path(__file__).parents[2] / "docs/campaigns").glob("*.yaml"))

PLAIN = """
campaign: sale
definition:
  display_name: Sale
  effects:
    - percent_off: {basis_points: 1000}
codes: {shared: [SALE]}
tests:
  - name: ten percent
    expect: {discount_minor: 500}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sale.yaml"


def check(file: Path, text: str, *options: str) -> Result:
    file.write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["campaign", "test", str(file), *options], env={"COLUMNS": "300"})


def complaints(file: Path, text: str) -> list[str]:
    ran = check(file, text)
    assert ran.exit_code == 2, ran.output
    lines = ran.stderr.replace(f"error: {file}: ", "").splitlines()
    assert "Traceback" not in ran.stderr
    return lines


# -- the cases ---------------------------------------------------------------------------------------------------------


def test_there_are_eleven_examples() -> None:
    assert len(EXAMPLES) == 11


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_passes_its_own_tests(path: Path) -> None:
    ran = CliRunner().invoke(app, ["campaign", "test", str(path), "--json"])
    assert ran.exit_code == 0, ran.output
    [report] = json.loads(ran.stdout)
    assert report["campaign"] == path.stem
    assert report["failed"] == 0
    assert report["ok"] >= 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_written_out_and_read_again_is_the_same(path: Path) -> None:
    tree = tree_of(read(path).definition)
    copy = write_tree({"definition": tree})
    assert read_tree(copy.encode()) == {"definition": _texts(tree)}


def _texts(value: Any) -> Any:
    """A tree as it is read: every scalar a text."""
    if isinstance(value, dict):
        return {name: _texts(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_texts(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_a_case_that_fails_says_what_was_expected_and_what_was_found(file: Path) -> None:
    ran = check(file, PLAIN.replace("discount_minor: 500", "discount_minor: 499, lines: [500]"))
    assert ran.exit_code == 1
    assert (
        "FAILED  ten percent\n          expected  discount_minor: 499\n          found     discount_minor: 500\n"
        in (ran.stdout)
    )
    assert "0 ok, 1 failed" in ran.stdout


def test_a_case_that_fails_shows_what_was_looked_at(file: Path) -> None:
    text = PLAIN.replace("codes:", "  conditions: [{countries: {any: [NO]}}]\ncodes:")
    ran = check(file, text)
    assert ran.exit_code == 1
    assert 'found     refused: "COUNTRY_NOT_ELIGIBLE"' in ran.stdout
    assert (
        "not held  conditions[0].countries: wanted any=NO, saw nothing (customer.country_code was not sent, so it does"
        " not hold (CLOSED))" in ran.stdout
    )
    [report] = json.loads(check(file, text, "--json").stdout)
    assert report["failed"] == 1
    assert report["cases"][0]["expected"] == {"discount_minor": 500}
    assert report["cases"][0]["found"]["refused"] == "COUNTRY_NOT_ELIGIBLE"
    assert report["cases"][0]["trace"][0]["path"] == "conditions[0].countries"


@pytest.mark.parametrize(
    "expect",
    [
        "{refused: NO_EFFECT}",
        "{lines: [500, 0]}",
        "{shipping_discount_minor: 1}",
        "{desired_minor: 501}",
        "{granted_units: [{sku: mug, quantity: 1}]}",
        "{caps: [MAX_AMOUNT]}",
    ],
)
def test_every_expectation_can_fail(file: Path, expect: str) -> None:
    assert check(file, PLAIN.replace("{discount_minor: 500}", expect)).exit_code == 1


@pytest.mark.parametrize("expect", ["metadata: {actual: 3}", "metadata: {max: 1}", "message: no", "metadata: {x: 1}"])
def test_every_part_of_a_refusal_can_fail(file: Path, expect: str) -> None:
    text = PLAIN.replace("codes:", "  conditions: [{order_number: {max: 1}}]\ncodes:").replace(
        "expect: {discount_minor: 500}",
        "customer: {order_count: 2}\n    expect: {refused: REFUSAL_REASON_CUSTOMER_NOT_ELIGIBLE, WHAT}",
    )
    holds = expect in ("metadata: {actual: 3}", "metadata: {max: 1}")
    assert check(file, text.replace("WHAT", expect)).exit_code == (0 if holds else 1)


def test_what_a_gift_grants_and_what_caps_cut_can_be_expected(file: Path) -> None:
    text = PLAIN.replace("percent_off: {basis_points: 1000}", "free_units: {sku: mug, quantity: 2}").replace(
        "{discount_minor: 500}", "{discount_minor: 0, granted_units: [{sku: mug, quantity: 2}], caps: []}"
    )
    assert check(file, text).exit_code == 0


def test_a_file_without_tests_says_so(file: Path) -> None:
    ran = check(file, PLAIN[: PLAIN.index("tests:")])
    assert ran.exit_code == 1
    assert "has no tests" in ran.stdout


def test_a_case_begins_when_the_campaign_does(file: Path) -> None:
    text = PLAIN.replace("codes:", "  start_time: 2031-01-01T00:00:00+01:00\ncodes:")
    assert check(file, text).exit_code == 0
    early = text.replace(
        "    expect: {discount_minor: 500}", "    now: 2030-12-31T22:59:59Z\n    expect: {discount_minor: 500}"
    )
    assert "CAMPAIGN_NOT_STARTED" in check(file, early).stdout


# -- what a file may say -----------------------------------------------------------------------------------------------


def test_enums_have_short_and_full_names(file: Path) -> None:
    definitions = []
    for kind in ("CHEAPEST", "TARGET_KIND_CHEAPEST"):
        ran = check(file, PLAIN.replace("1000}", f"1000, target: {{kind: {kind}}}}}"))
        assert ran.exit_code == 0
        definitions.append(read(file).definition)
    assert definitions[0] == definitions[1]
    for kind in ("cheapest", "TARGET_KIND_UNSPECIFIED", "PICK_CHEAPEST", "5"):
        [line] = complaints(file, PLAIN.replace("1000}", f"1000, target: {{kind: {kind}}}}}"))
        assert line.startswith("definition.effects[0].percent_off.target.kind: is ")
        assert "give one of ORDER, PROPORTIONAL" in line


def test_nothing_is_taken_for_something_else(file: Path) -> None:
    check(
        file,
        """
campaign: on
definition:
  display_name: 2026-01-01
  effects: [{percent_off: {basis_points: 1000}}]
  schedule: {weekly: [{start_time: 12:30, end_time: 13:00}]}
  conditions:
    - countries: {any: [NO, "DE"]}
    - attribute: {key: y, any: [yes, true, 1.0, 0x10, 007, 1_000, 2026-01-01, 'null', .inf, =, "<<"]}
codes: {shared: [0123, 1e3]}
""",
    )
    file_ = read(file)
    assert file_.campaign_id == "on"
    assert file_.definition.display_name == "2026-01-01"
    assert file_.definition.schedule.weekly[0].start_time == "12:30"
    assert list(file_.definition.conditions[0].countries.any) == ["NO", "DE"]
    assert list(file_.definition.conditions[1].attribute.any) == (
        ["yes", "true", "1.0", "0x10", "007", "1_000", "2026-01-01", "null", ".inf", "=", "<<"]
    )
    assert file_.shared_codes == ["0123", "1e3"]
    # And back again.
    tree = tree_of(normal(file_.definition))
    assert read_tree(write_tree(tree).encode()) == _texts(tree)


def test_durations() -> None:
    spans = {"90s": 90_000, "30m": 1_800_000, "12h": 43_200_000, "7d": 604_800_000, "2w": 1_209_600_000}
    spans |= {"604800s": 604_800_000, "0.5s": 500, "604800.000s": 604_800_000}
    for text, span_ms in spans.items():
        assert duration_ms(text) == span_ms
    for text in ("7", "7 d", "7D", "-7d", "1.5d", "1d12h", "P7D", "s", "", "0.0001s", "999999999999w", "٣d"):
        with pytest.raises(ValueError, match=r"give a duration such as|too long"):
            duration_ms(text)


def test_moments() -> None:
    for text in ("2026-11-27T00:00:00+01:00", "2026-11-26T23:00:00Z", "2026-11-26T23:00:00.000Z"):
        assert moment_ms(text) == 1_795_734_000_000
    for text in ("2026-11-27", "2026-11-27T00:00:00", "2026-11-27 00:00:00Z", "2026-11-27T00:00Z", "20261127T000000Z"):
        with pytest.raises(ValueError, match="give a time with an offset"):
            moment_ms(text)
    for text in ("2026-02-29T00:00:00Z", "2026-11-27T25:00:00Z"):
        with pytest.raises(ValueError, match="does not exist"):
            moment_ms(text)


# -- what is wrong with a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("campaign: sale", "campain: sale", "campain: is not known; accepted are campaign, draft, definition, codes"),
        ("campaign: sale", "campaign: sale\ndraft: yes", "draft: is 'yes'; give one of true, false"),
        ("campaign: sale", "campaign: sale\ndraft:", "draft: is empty; give one of true, false"),
        ("display_name", "displayName", "definition.displayName: is not known; accepted are display_name, effects,"),
        ("basis_points: 1000", "percent: 10", "definition.effects[0].percent_off.percent: is not known"),
        ("basis_points: 1000", "basis_points: 10%", "definition.effects[0].percent_off.basis_points: is '10%'; give a"),
        ("basis_points: 1000", "basis_points: 1_000", "definition.effects[0].percent_off.basis_points: is '1_000'"),
        ("basis_points: 1000", "basis_points: 9999999999", "definition.effects[0].percent_off.basis_points: is '999"),
        ("basis_points: 1000", "basis_points: ~", "definition.effects[0].percent_off.basis_points: is empty"),
        ("{basis_points: 1000}", "", "definition.effects[0].percent_off: is empty; give a mapping with any of basis"),
        ("- percent_off", "percent_off", "definition.effects: is a mapping; give a list"),
        ("- percent_off", "- free_shipping: {}\n      percent_off", "percent_off: stands beside free_shipping"),
        ("effects:", "code_validity: 7\n  effects:", "definition.code_validity: is '7'; give a duration such as 90s"),
        ("effects:", "start_time: 2026-01-01\n  effects:", "definition.start_time: is '2026-01-01'; give a time with"),
        ("shared: [SALE]", "shard: [SALE]", "codes.shard: is not known; accepted are shared, single_use, assigned"),
        ("shared: [SALE]", "shared: [SALE, sale]", "codes.shared[1]: is given twice"),
        ("shared: [SALE]", "shared: [S]", "codes.shared[0]: "),
        ("shared: [SALE]", "assigned: [{code: SALE}]", "codes.assigned[0].customer_id: "),
        ("codes: {shared: [SALE]}", "", "codes: is missing"),
        ("name: ten", "nam: ten", "tests[0].nam: is not known; accepted are name, now, code"),
        ("discount_minor: 500", "discount_minor: 5.00", "tests[0].expect.discount_minor: is '5.00'; give a whole"),
        ("discount_minor: 500", "discount: 500", "tests[0].expect.discount: is not known"),
        ("discount_minor: 500", "", "tests[0].expect: says nothing of the outcome"),
        ("discount_minor: 500", "refused: NO_EFFECT, discount_minor: 0", "tests[0].expect.discount_minor: stands besi"),
        ("discount_minor: 500", "discount_minor: 500, message: no", "tests[0].expect.message: is for a refusal"),
        ("discount_minor: 500", "refused: CODE_UNKNOWN", "tests[0].expect.refused: is 'CODE_UNKNOWN'; give one of CAM"),
        ("discount_minor: 500", "caps: [MAX]", "tests[0].expect.caps: is 'MAX'; give one of MAX_AMOUNT"),
        ("expect:", "code: OTHER\n    expect:", "tests[0].code: is 'OTHER'; give one of the file's codes"),
        ("expect:", "now: noon\n    expect:", "tests[0].now: is 'noon'; give a time with an offset"),
        ("expect:", "assigned_at: 2026-01-01T00:00:00Z\n    expect:", "tests[0].assigned_at: is for a code that is"),
        ("expect:", "customer: {ordercount: 1}\n    expect:", "tests[0].customer.ordercount: is not known"),
        ("expect:", "customer: {country_code: de}\n    expect:", "tests[0].customer.country_code: "),
        ("expect:", "order: {currency_code: XYZ}\n    expect:", "tests[0].order.currency_code: 'XYZ' is no currency"),
        ("expect:", "order: {lines: [{quantity: 0}]}\n    expect:", "tests[0].order.lines[0].quantity: "),
        ("expect:", "order: {metadata: {a: [b]}}\n    expect:", "tests[0].order.metadata['a']: is a list; give a text"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(file: Path, old: str, new: str, complaint: str) -> None:
    assert old in PLAIN
    lines = complaints(file, PLAIN.replace(old, new, 1))
    assert any(complaint in line for line in lines), lines


def test_everything_wrong_is_told_at_once(file: Path) -> None:
    lines = complaints(
        file,
        """
campaign: Sale
definition:
  display_name: Sale
  colour: red
  effects:
    - amount_off: {amount_minor: 0}
  conditions:
    - countries: {}
  schedule: {time_zone: Europe/Bärlin}
codes: {shared: [S]}
tests:
  - {name: one, expect: {discount_minor: much}}
  - {name: two, expect: {refused: WHATEVER}}
""",
    )
    places = [line.split(": ")[0] for line in lines]
    assert sorted(places) == sorted(
        [
            "campaign",
            "codes.shared[0]",
            "definition.colour",
            "definition.currency_code",
            "definition.effects[0].amount_off.amount_minor",
            "definition.conditions[0].countries",
            "definition.schedule.time_zone",
            "tests[0].expect.discount_minor",
            "tests[1].expect.refused",
        ]
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no mapping"),
        ("- a\n", "is no mapping"),
        ("# nothing\n", "is no mapping"),
        ("a: 1\nb: 2\na: 3\n", "line 3: a is given twice"),
        ("a:\n  - {b: 1, b: 2}\n", "line 2: a[0].b is given twice"),
        ("a: &x [1]\nb: *x\n", "line 1: anchors, aliases and tags are not accepted"),
        ("a: *x\n", "line 1: anchors, aliases and tags are not accepted"),
        ("a: !!python/object:os.system x\n", "line 1: anchors, aliases and tags are not accepted"),
        ("a: 1\n--- \nb: 2\n", "has a second document"),
        ("%YAML 1.1\n---\na: 1\n", "has a %YAML directive"),
        ("a: [", "is no YAML: line 1, column 5: "),
        ("a: b: c\n", "is no YAML: line 1, column 5: "),
        ("{[a]: b}\n", "line 1: a key has to be a name"),
        ("a: " + "[" * 100_000, "line 1: is nested more than 32 deep"),
        ('a: "\\ud800"\n', "surrogate"),
    ],
    ids=range(15),
)
def test_a_file_that_is_no_campaign_file_is_told(file: Path, text: str, complaint: str) -> None:
    [line] = complaints(file, text)
    assert complaint in line


def test_bytes_that_are_no_text_and_files_that_are_none_are_told(file: Path, tmp_path: Path) -> None:
    for data, complaint in (
        (b"a: \xff", "is not UTF-8"),
        (b"a: \x00", "is no YAML"),
        (b"#" * (MAX_BYTES + 1), "is larger than 1048576 bytes"),
    ):
        file.write_bytes(data)
        ran = CliRunner().invoke(app, ["campaign", "test", str(file)])
        assert ran.exit_code == 2
        assert complaint in ran.stderr
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        ran = CliRunner().invoke(app, ["campaign", "test", str(path)])
        assert ran.exit_code == 2
        assert "cannot be read" in ran.stderr


def test_a_campaign_that_stands_in_two_files_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_text(PLAIN)
    (tmp_path / "other.yaml").write_text(PLAIN)
    ran = CliRunner().invoke(app, ["campaign", "apply", str(file), str(tmp_path / "other.yaml")])
    assert ran.exit_code == 2
    assert "other.yaml: campaign: sale stands in " in ran.stderr


# -- applied to a server -----------------------------------------------------------------------------------------------


@pytest.fixture
def own(file: Path) -> str:
    """A file of a campaign that no other test has; its id."""
    id_ = f"file-{uuid.uuid4()}"
    file.write_text(PLAIN.replace("sale", id_).replace("SALE", id_))
    return id_


def test_applying_creates_leaves_alone_and_updates(service: Service, file: Path, own: str) -> None:
    target = ("--target", service.target)

    dry = vouchsafe("campaign", "apply", str(file), "--dry-run", *target)
    assert (dry.returncode, dry.stdout) == (0, f"{file}: campaign {own} would be created\n"), dry.stderr
    created = vouchsafe("campaign", "apply", str(file), *target)
    assert (created.returncode, created.stdout) == (0, f"{file}: campaign {own} created\n"), created.stderr
    assert vouchsafe("redeem", own, *target).stdout.startswith("redeemed: 5.00 EUR off 50.00 EUR")

    again = vouchsafe("campaign", "apply", str(file), *target)
    assert again.returncode == 0
    assert again.stdout.startswith(f"{file}: campaign {own} unchanged; its codes stay as they are")

    file.write_text(file.read_text().replace("1000", "2000"))
    for option, outcome in (("--dry-run",), "would be updated"), ((), "updated to version 2"), ((), "unchanged"):
        ran = vouchsafe("campaign", "apply", str(file), *option, *target)
        assert ran.returncode == 0, ran.stderr
        assert f"campaign {own} {outcome}; its codes stay as they are" in ran.stdout
        diff = "-    basis_points: 1000\n+    basis_points: 2000\n"
        assert (diff in ran.stdout) == (outcome != "unchanged")
    assert vouchsafe("redeem", own, *target).stdout.startswith("redeemed: 10.00 EUR off 50.00 EUR")

    [report] = json.loads(vouchsafe("campaign", "apply", str(file), "--json", *target).stdout)
    assert (report["campaign"], report["outcome"]) == (own, "unchanged")


def test_a_file_may_say_draft(service: Service, file: Path, own: str) -> None:
    target = ("--target", service.target)
    plain = file.read_text()
    file.write_text(f"draft: true\n{plain}")
    live = f"it is a draft until `vouchsafe campaign schedule {own}` takes it live"
    created = [vouchsafe("campaign", "apply", str(file), *option, *target).stdout for option in (("--dry-run",), ())]
    outcomes = ("would be created as a draft", "created as a draft")
    assert created == [f"{file}: campaign {own} {outcome}; {live}\n" for outcome in outcomes]
    assert vouchsafe("redeem", own, *target).returncode == 3

    # Neither file takes it live: the one without `draft` changes it as the other does.
    exported = vouchsafe("campaign", "export", own, *target).stdout
    assert "\ndraft: true\n" in exported
    for text, outcome in (exported, "unchanged"), (plain.replace("1000", "2000"), "updated to version 2"):
        file.write_text(text)
        ran = vouchsafe("campaign", "apply", str(file), *target)
        assert f"campaign {own} {outcome}; " in ran.stdout
        assert ran.stdout.endswith(f"{live}\n")
    assert vouchsafe("redeem", own, *target).returncode == 3

    assert vouchsafe("campaign", "schedule", own, *target).returncode == 0
    assert vouchsafe("redeem", own, *target).stdout.startswith("redeemed: 10.00 EUR off 50.00 EUR")
    assert "draft" not in vouchsafe("campaign", "export", own, *target).stdout
    file.write_text(f"draft: true\n{file.read_text()}")
    assert "it is no draft any more, and stays so" in vouchsafe("campaign", "apply", str(file), *target).stdout


def test_the_server_takes_every_example(service: Service) -> None:
    ran = vouchsafe("campaign", "apply", *map(str, EXAMPLES), "--dry-run", "--json", "--target", service.target)
    assert ran.returncode == 0, ran.stderr
    assert [report["outcome"] for report in json.loads(ran.stdout)] == ["would be created"] * len(EXAMPLES)


def test_an_exported_campaign_is_applied_without_a_change(service: Service, file: Path, own: str) -> None:
    target = ("--target", service.target)
    text = (EXAMPLES[0].parent / "happy-hour.yaml").read_text()
    file.write_text(text.replace("campaign: happy-hour", f"campaign: {own}").replace("[HAPPY]", f"[{own}]"))
    assert vouchsafe("campaign", "apply", str(file), *target).returncode == 0

    exported = vouchsafe("campaign", "export", own, *target)
    assert exported.returncode == 0, exported.stderr
    file.write_text(exported.stdout)
    applied = vouchsafe("campaign", "apply", str(file), *target)
    assert applied.stdout == f"{file}: campaign {own} unchanged\n"
    as_json = json.loads(vouchsafe("campaign", "export", own, "--json", *target).stdout)
    assert as_json["definition"]["schedule"]["weekly"][1]["weekdays"] == ["FRIDAY", "SATURDAY"]


def test_what_the_server_is_against_is_told_in_the_words_of_the_file(service: Service, file: Path, own: str) -> None:
    target = ("--target", service.target)
    without = file.read_text()
    assert vouchsafe("campaign", "apply", str(file), *target).returncode == 0
    file.write_text(without.replace(f"campaign: {own}", f"campaign: {own}x"))
    taken = vouchsafe("campaign", "apply", str(file), *target)
    assert taken.returncode == 1
    assert f"error: {file}: campaign {own}x: ALREADY_EXISTS: " in taken.stderr


class Meddled:
    """A client whose campaigns change right after they were read."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.update_campaign = client.update_campaign

    async def get_campaign(self, campaign_id: str) -> Campaign:
        found = await self._client.get_campaign(campaign_id)
        definition = type(found.definition)()
        definition.CopyFrom(found.definition)
        definition.display_name = "Somebody else's"
        await self._client.update_campaign(campaign_id, definition)
        return found


async def test_a_change_by_somebody_else_is_not_overwritten(client: Client, file: Path, own: str) -> None:
    report: dict[str, Any] = {}
    await apply_file(client, read(file), report, dry_run=False, show=False)
    assert report["outcome"] == "created"

    changed = replace(read(file), definition=CampaignDefinition(display_name="Ours"))
    changed.definition.effects.add().percent_off.basis_points = 2000
    report = {}
    await apply_file(cast(Client, Meddled(client)), changed, report, dry_run=False, show=False)
    assert report["error"].startswith("has changed since it was read")
    assert (await client.get_campaign(own)).definition.display_name == "Somebody else's"
