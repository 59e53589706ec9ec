"""A change of a campaign's definition, as a part of a transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vouchsafe.domain.campaign import Campaign, Definition
from vouchsafe.domain.trail import Action, Author, Note, changed
from vouchsafe.ledger.connection import Connection
from vouchsafe.ledger.queries import SQL
from vouchsafe.ledger.rows import campaign_of


@dataclass(frozen=True, slots=True)
class ChangedCampaign:
    """A campaign, and its definition before."""

    campaign: Campaign
    before: Definition

    def note(self, action: Action, author: Author, reason: str, also: Mapping[str, object] | None = None) -> Note:
        """What has changed in it, for the audit trail, and what `also` is so now."""
        before, after = changed(*(json.loads(one.to_json()) for one in (self.before, self.campaign.definition)))
        before["version"], after["version"] = self.campaign.version - 1, self.campaign.version
        return Note(author, action, f"campaign:{self.campaign.id}", before, {**after, **(also or {})}, reason)


async def change_campaign(
    connection: Connection, campaign_id: str, change: Callable[[Definition], Definition], version: int | None = None
) -> ChangedCampaign | None:
    """What `Ledger.update_campaign` does, in the transaction that the connection is in, but for its note."""
    row = await connection.fetchrow(SQL["lock_campaign"], campaign_id)
    if row is None or version not in (None, row["version"]):
        return None
    before = campaign_of(row).definition
    (updated,) = await connection.fetch(SQL["update_campaign"], campaign_id, change(before).to_json())
    return ChangedCampaign(campaign_of(updated), before)
