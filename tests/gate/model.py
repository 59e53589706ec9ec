"""What the gate should do, in plain Python: one dictionary per thing, no batching, no partitions."""

from __future__ import annotations

from dataclasses import dataclass, field

from vouchsafe.domain.campaign import Definition
from vouchsafe.domain.reasons import Reason

# An answer is ("redeemed", n) for the n-th use of all, ("refused", reason), ("standing", n) or "reused".
Answer = tuple[str, int] | str


@dataclass
class CampaignModel:
    """One campaign's counters."""

    definition: Definition
    paused: bool = False
    used: int = 0
    money: int = 0
    customers: dict[str, int] = field(default_factory=dict)
    customers_money: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    orders: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)


@dataclass
class GateModel:
    """All campaigns of an installation, and every request that was answered."""

    campaigns: dict[str, CampaignModel] = field(default_factory=dict)
    requests: dict[str, tuple[str, Answer]] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    redemptions: int = 0

    def redeem(
        self,
        *,
        request_id: str,
        fingerprint: str,
        campaign_id: str,
        code: str,
        code_limit: int | None,
        customer: str,
        order: str,
        objection: Reason | None,
        discount: int,
        now_ms: int,
    ) -> Answer:
        """Decides one request."""
        if request_id in self.requests:
            first, answer = self.requests[request_id]
            return answer if first == fingerprint else "reused"
        campaign = self.campaigns[campaign_id]
        answer = self._decide(campaign, fingerprint, code, code_limit, customer, order, objection, discount, now_ms)
        if answer == ("redeemed", self.redemptions):
            self.redemptions += 1
            campaign.used += 1
            campaign.money += discount
            campaign.customers_money[customer] = campaign.customers_money.get(customer, 0) + discount
            campaign.customers[customer] = campaign.customers.get(customer, 0) + 1
            campaign.codes[code] = campaign.codes.get(code, 0) + 1
            campaign.orders[order, code] = (fingerprint, self.redemptions - 1)
            self.events.append(("redeemed", campaign_id))
        self.requests[request_id] = (fingerprint, answer)
        return answer

    def _decide(
        self,
        campaign: CampaignModel,
        fingerprint: str,
        code: str,
        code_limit: int | None,
        customer: str,
        order: str,
        objection: Reason | None,
        discount: int,
        now_ms: int,
    ) -> Answer:
        if (order, code) in campaign.orders:
            first, number = campaign.orders[order, code]
            return ("standing", number) if first == fingerprint else ("refused", Reason.ORDER_ALREADY_REDEEMED)
        definition = campaign.definition
        limits = definition.limits
        objections = [
            (Reason.CAMPAIGN_PAUSED, campaign.paused),
            (Reason.CAMPAIGN_NOT_STARTED, definition.start_time_ms is not None and now_ms < definition.start_time_ms),
            (Reason.CAMPAIGN_ENDED, definition.end_time_ms is not None and now_ms >= definition.end_time_ms),
            (objection, objection is not None),
            (Reason.CODE_LIMIT_REACHED, _full(campaign.codes.get(code, 0), 1, code_limit or limits.per_code)),
            (Reason.CUSTOMER_LIMIT_REACHED, _full(campaign.customers.get(customer, 0), 1, limits.per_customer)),
            (
                Reason.CUSTOMER_BUDGET_EXHAUSTED,
                _full(campaign.customers_money.get(customer, 0), discount, limits.customer_budget_minor),
            ),
            (Reason.CAMPAIGN_LIMIT_REACHED, _full(campaign.used, 1, limits.total)),
            (
                Reason.DISTINCT_CUSTOMERS_REACHED,
                customer not in campaign.customers and _full(len(campaign.customers), 1, limits.distinct_customers),
            ),
            (Reason.BUDGET_EXHAUSTED, _full(campaign.money, discount, limits.budget_minor)),
        ]
        for reason, holds in objections:
            if holds and reason is not None:
                return ("refused", reason)
        return ("redeemed", self.redemptions)

    def set_paused(self, campaign_id: str, paused: bool) -> None:
        """Pauses or resumes."""
        campaign = self.campaigns[campaign_id]
        if campaign.paused != paused:
            campaign.paused = paused
            self.events.append(("paused" if paused else "resumed", campaign_id))


def _full(used: int, more: int, cap: int | None) -> bool:
    return cap is not None and used + more > cap
