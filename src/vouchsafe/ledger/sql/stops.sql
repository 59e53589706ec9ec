-- What was paused or stopped, and when.

-- name: stops
-- Every time that something was stopped, newest first, at most $1, of everything or of the pauses of a campaign ($2), of which its archiving is the last: what
-- ('campaign:<id>' or the scope of a kill switch), why, from when to when (null: still), and how many uses were taken in
-- that stretch of the streams of its partitions. A campaign that has left the label of a kill switch is not told apart
-- from one that has it: labels are those of now.
with switched as (
    select
        e.partition, e.epoch, e.ms, e.seq, e.at, e.kind in ('paused', 'archived', 'kill_engaged') as stops,
        coalesce('campaign:' || nullif(e.campaign_id, ''), s.scope) as what, s.reason,
        coalesce(s.at_ms, (extract(epoch from e.at) * 1000)::bigint) as began_ms
    -- A reason may be anything that JSON can say, and text cannot: NULs, and halves of pairs.
    from events as e
    cross join json_to_record(regexp_replace(e.body::text, '\\u(0000|d[89ab]..|d[c-f]..)', '\\ufffd', 'gi')::json)
        as s (scope text, reason text, at_ms bigint)
    where e.kind in ('paused', 'resumed', 'archived', 'kill_engaged', 'kill_released')
        and ($2::text is null or e.campaign_id = $2)
), stretches as (
    select
        *, lead(epoch) over w as end_epoch, lead(ms) over w as end_ms, lead(seq) over w as end_seq, lead(at) over w as end_at
    from switched
    window w as (partition by partition, what order by epoch, ms, seq)
), counted as (
    select
        s.what, s.reason, s.began_ms, s.at, s.end_at,
        (
            select count(*)
            from events as e cross join json_to_record(e.body) as b (code text)
            where e.partition = s.partition and e.kind in ('redeemed', 'held')
                and (e.epoch, e.ms, e.seq) > (s.epoch, s.ms, s.seq)
                -- No OR for those without an end: with two bounds the index gives just the stretch.
                and (e.epoch, e.ms, e.seq) < (
                    coalesce(s.end_epoch, 2147483647), coalesce(s.end_ms, 9223372036854775807), coalesce(s.end_seq, 0)
                )
                and (
                    s.what in ('*', 'campaign:' || e.campaign_id, 'code:' || b.code)
                    or exists (
                        select from campaigns as c
                        where c.id = e.campaign_id and s.what like 'label:%'
                            and c.definition -> 'labels' ? substr(s.what, 7)
                    )
                )
        ) as taken
    from stretches as s
    where s.stops
)
select what, min(reason) as reason, min(at) as began_at, case when count(end_at) = count(*) then max(end_at) end as ended_at,
    sum(taken)::bigint as taken
from counted
group by what, began_ms
order by began_at desc, what
limit $1;

-- name: engaged_switches
-- Kill switches that are engaged by some partition's last word: what was engaged or released half way counts as engaged.
select distinct on (scope) scope, reason, at_ms from kill_switches where is_engaged order by scope, at_ms;
