-- Who we are, what is locked, and the epochs of partitions.

-- name: server
-- Is this a server that can keep what it is given?
select
    current_setting('server_version_num')::integer as version_num,
    current_setting('server_encoding') as encoding,
    current_setting('fsync') as fsync,
    current_setting('synchronous_commit') as synchronous_commit;

-- name: try_lock
-- Takes a partition for this session, unless another session has it.
select pg_try_advisory_lock($1, $2);

-- name: unlock
-- Gives a partition back.
select pg_advisory_unlock($1, $2);

-- name: create_installation
-- Makes the one row of the installation, unless it is there; of two at the same time one waits and then finds it.
insert into installation (partitions) values ($1)
on conflict do nothing
returning true;

-- name: create_partitions
-- The partitions of a new installation, numbered from 0, none of them opened yet.
insert into partitions (partition) select generate_series(0, $1::integer - 1);

-- name: get_installation
-- The installation with its partitions, one a row.
select i.id::text as id, p.partition, p.epoch, p.opened_at is not null as opened, p.offset_ms, p.offset_seq
from installation as i cross join partitions as p
order by p.partition;

-- name: get_partition
-- One partition as it is now.
select partition, epoch, opened_at is not null as opened, offset_ms, offset_seq
from partitions
where partition = $1;

-- name: mark_opened
-- Notes that the gate holds a partition. The first time stands.
update partitions set opened_at = now()
where partition = $1 and epoch = $2 and opened_at is null;

-- name: begin_epoch
-- The next epoch of a partition that is at epoch $2 by the ledger and at $3 by the gate: what was begun before it writes
-- nothing any more. With ($4, $5) only if the ledger holds nothing behind that stream id, so that nothing is lost.
update partitions set epoch = greatest(epoch, $3) + 1
where partition = $1 and epoch = $2 and (offset_ms, offset_seq) <= (coalesce($4, offset_ms), coalesce($5, offset_seq))
returning partition, epoch, opened_at is not null as opened, offset_ms, offset_seq;

-- name: begin_recovery
-- Notes that partitions are being recovered.
insert into recoveries (partitions, finding, events) values ($1::smallint[], $2, $3)
returning id;

-- name: note_recovery
-- Notes how far a recovery is, and with true for $3 that it has ended.
update recoveries set events_read = $2, ended_at = case when $3 then now() end where id = $1;

-- name: last_recovery
-- The newest recovery, which may be under way.
select partitions, finding, began_at, ended_at, events, events_read from recoveries order by id desc limit 1;
