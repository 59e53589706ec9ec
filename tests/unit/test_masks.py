"""Field masks, without a server: what is named changes, the rest stays."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict

from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.errors import InvalidRequest
from vouchsafe.edge.convert_campaigns import definition
from vouchsafe.edge.masks import PATHS, complete, mask_violations, merged
from vouchsafe.v1.definition_pb2 import CampaignDefinition

STANDING = {
    "display_name": "Sale",
    "effects": [{"percent_off": {"basis_points": 1_000}}],
    "currency_code": "EUR",
    "limits": {"total": 5, "budget_minor": 9_000},
    "start_time": "2026-11-27T00:00:00Z",
    "end_time": "2026-12-01T00:00:00Z",
    "labels": ["november"],
}


def message(**fields: object) -> CampaignDefinition:
    return ParseDict(fields, CampaignDefinition())


def a_definition(**changed: object) -> Definition:
    return definition(message(**(STANDING | changed)))


def change(paths: list[str], **fields: object) -> Definition:
    given = message(**fields)
    complete(given, paths)
    return merged(a_definition(), definition(given), paths)


@pytest.mark.parametrize(
    ("paths", "given", "changed"),
    [
        (["end_time"], {"end_time": "2026-12-24T00:00:00Z"}, {"end_time": "2026-12-24T00:00:00Z"}),
        (["limits.total"], {"limits": {"total": 9}}, {"limits": {"total": 9, "budget_minor": 9_000}}),
        (["limits.total"], {}, {"limits": {"budget_minor": 9_000}}),
        (["limits"], {"limits": {"per_customer": 1}}, {"limits": {"per_customer": 1}}),
        (["limits"], {}, {"limits": {}}),
        (["labels", "display_name"], {"display_name": "New"}, {"display_name": "New", "labels": []}),
        (
            ["schedule.time_zone"],
            {"schedule": {"time_zone": "Europe/Berlin"}},
            {"schedule": {"time_zone": "Europe/Berlin"}},
        ),
        (
            ["stacking.priority"],
            {"stacking": {"priority": 3, "mode": "COMBINE_MODE_JOINT"}},
            {"stacking": {"priority": 3}},
        ),
        ([], STANDING | {"display_name": "All of it"}, {"display_name": "All of it"}),
    ],
)
def test_what_is_named_changes_and_the_rest_stays(
    paths: list[str], given: dict[str, object], changed: dict[str, object]
) -> None:
    assert change(paths, **given) == a_definition(**changed)


def test_every_field_can_be_named_and_nothing_else() -> None:
    assert {"display_name", "effects", "limits.identities.kinds", "rollback.on_partial"} <= PATHS
    assert not mask_violations(PATHS, "update_mask")
    for path in PATHS:
        complete(CampaignDefinition(), [path])
    wrong = ["", "*", "limits.", "limits.sum", "end_time.seconds", "effects.percent_off", "effects[0]", "Limits"]
    violations = mask_violations(wrong, "update_mask")
    assert [one.field for one in violations] == ["update_mask"] * len(wrong)
    assert all(repr(path) in one.description for path, one in zip(wrong, violations, strict=True))


def test_what_does_not_go_with_what_stands_is_refused() -> None:
    for paths, given, field in (
        (["end_time"], {"end_time": "2026-11-01T00:00:00Z"}, "definition.end_time"),
        (["currency_code"], {}, "definition.currency_code"),
        (["effects"], {}, "definition.effects"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            change(paths, **given)
        assert field in {one.field for one in caught.value.violations}
