"""What is left of a budget that does not cover a discount; some campaigns give it then (`Limits.partial_budget`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from vouchsafe.domain.limits import Limits
from vouchsafe.domain.reasons import Reason, Refusal


class Rest(NamedTuple):
    """What is left of a campaign's budget for a shopper, in minor units, and the refusal that told so."""

    minor: int
    told: Refusal

    def refusal(self, code: str) -> Refusal:
        """The same for another code, when nothing is left."""
        return msgspec.structs.replace(self.told, code=code)


# By the campaign's id.
Rests = Mapping[str, Rest]
NO_RESTS: Rests = MappingProxyType({})


def rest_of(limits: Limits, refusal: Refusal) -> Rest | None:
    """What is given instead of this refusal, None when it stands."""
    if not limits.partial_budget or refusal.reason not in (Reason.BUDGET_EXHAUSTED, Reason.CUSTOMER_BUDGET_EXHAUSTED):
        return None
    rest_minor = int(refusal.metadata["limit"]) - int(refusal.metadata["used"])
    return Rest(rest_minor, refusal) if rest_minor > 0 else None
