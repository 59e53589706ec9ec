-- What a voucher can say: definitions with effects and conditions, codes that are given to a customer, discounts line by
-- line.

-- Definitions in their new form. A new version, so that the gate gets them again.
update campaigns set
    version = version + 1,
    definition = jsonb_build_object(
        'display_name', definition -> 'display_name',
        'effects', jsonb_build_array(jsonb_build_object('kind',
            case
                when definition -> 'discount' ? 'percent' then jsonb_build_object(
                    'type', 'percent_off', 'basis_points', definition #> '{discount,percent,basis_points}'
                )
                else jsonb_build_object(
                    'type', 'amount_off', 'amount_minor', definition #> '{discount,amount,amount_minor}'
                )
            end
        )),
        'currency_code', coalesce(definition #> '{discount,amount,currency_code}', '""'),
        'limits', definition -> 'limits',
        'start_time_ms', definition -> 'start_ms',
        'end_time_ms', definition -> 'end_ms'
    )
where definition ? 'discount';

-- To whom a code was given, and when; empty and null when to nobody.
alter table codes
    add column holder_id text collate "C" not null default '',
    add column assigned_at timestamptz,
    add check ((holder_id = '') = (assigned_at is null));

-- What was taken off, line by line, as in domain/pricing.py; null for redemptions from before. `discount_minor` is the
-- sum of it.
alter table redemptions add column discount json;

-- Redemptions of several codes: one event decides the whole, in the partition of the request id and of no campaign, and
-- each code has an event and a row of its own that names it.
alter table redemptions add column combined_id text collate "C" not null default '';
alter table events
    drop constraint events_kind_check,
    add constraint events_kind_check check (kind in ('redeemed', 'combined', 'paused', 'resumed'));
drop index events_of_state;
create index events_of_state on events (campaign_id, epoch, ms, seq) where kind in ('paused', 'resumed');
