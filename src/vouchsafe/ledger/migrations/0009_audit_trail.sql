-- The audit trail: what operators did, each action chained to the one before by its hash.

create table audit_events (
    -- Without gaps, in the order in which they were noted.
    number bigint primary key,
    -- When it was done; by the gate's clock where it was done there.
    at timestamptz not null,
    principal text collate "C" not null,
    action text collate "C" not null,
    target text collate "C" not null,
    -- json, not jsonb: the hash is over these very words.
    before json not null,
    after json not null,
    reason text not null,
    -- Of one call, however often it is told; null where nobody gave one.
    action_id text collate "C" unique,
    prev_hash bytea not null check (length(prev_hash) = 32),
    hash bytea not null check (length(hash) = 32)
);

create index audit_events_by_target on audit_events (target, number);
create index audit_events_by_principal on audit_events (principal, number);
create index audit_events_by_time on audit_events (at);

create trigger append_only before update or delete or truncate on audit_events
    for each statement execute function refuse_change();

-- Where the chain ends. One row: whoever appends locks it, so that there is one chain, however many append.
create table audit_head (
    one_row boolean primary key default true check (one_row),
    number bigint not null,
    hash bytea not null check (length(hash) = 32)
);
insert into audit_head (number, hash) values (0, decode(repeat('00', 32), 'hex'));

create trigger one_row before insert or delete or truncate on audit_head
    for each statement execute function refuse_change();

-- Appends an action, unless it is there: one with this action_id was told before. It locks the head until the end of the
-- transaction, so it comes last in it: who holds the head must wait for nobody.
-- The hash is SHA-256 over the hash before and then each field as a netstring without its comma, `<bytes>:<UTF-8>`, or `-`
-- for null; the time is in whole microseconds since 1970 UTC (domain/trail.py says the same).
create function append_audit_event(
    at timestamptz, principal text, action text, target text, before json, after json, reason text, action_id text
) returns void language plpgsql as $$
#variable_conflict use_variable
declare
    head audit_head;
    told text;
    new_hash bytea;
begin
    select * into strict head from audit_head for update;
    if exists (select from audit_events as e where e.action_id = action_id) then
        return;
    end if;
    head.number := head.number + 1;
    select string_agg(coalesce(octet_length(field) || ':' || field, '-'), '' order by place) into told
    from unnest(array[
        head.number::text, trunc(extract(epoch from at) * 1000000)::text, principal, action, target, before::text,
        after::text, reason, action_id
    ]) with ordinality as fields (field, place);
    new_hash := sha256(head.hash || convert_to(told, 'UTF8'));
    insert into audit_events
    values (head.number, at, principal, action, target, before, after, reason, action_id, head.hash, new_hash);
    update audit_head set number = head.number, hash = new_hash;
end
$$;
