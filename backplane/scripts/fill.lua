-- fill.lua - use a ticket: store what was loaded, unless something came in between; or give the ticket back.
--
-- KEYS  head, record, table of tags     ARGV  context, ticket (16), state (1 value, 2 absent, 0 give back),
-- Reply OK epoch position time                version (8), writer (8), source version (8), expiry us,
--                                             sealed (give back: empty), px ms (0: none), tags (8 each)
--       REFUSED epoch position time     the ticket was broken, by a change, a clear, a guard, a tag of the answer's,
--                                       a new epoch or its time
--       OUTDATED epoch position time    below the source version that the key has seen; the ticket is gone
--
-- A fill takes no position: it brings no news, or it would be a put.

local ticket, back = ARGV[2], ARGV[3] == '0' and ARGV[8] == ''
local record, sealed, px
if not back then record, sealed, px = record_from(3) end
if not (back or record) or #ticket ~= 16 or #KEYS ~= 3 then
    return redis.error_reply('ERR freshet: a fill that makes no sense')
end
local done = begin()
if done then return done end

local old = record_decode(get(KEYS[2]))
if not old or ticket == NO_TICKET or old.ticket ~= ticket or old.ticket_epoch ~= head.epoch
    or old.ticket_position < head.clear or old.ticket_until <= now or guards_read(old).count > 0 then
    return answer('REFUSED')
end
local outdated = record and record.source ~= NO_ID and below(record.source, old.seen)
-- A tag changed while the answer was loaded: it may be older than that.
local void = record and not tags_stand(KEYS[3], record.tags, old.ticket_position)
if back or outdated or void then
    if old.seen == NO_ID and now - old.changed >= FRESH_US then
        redis.call('UNLINK', KEYS[2])
    else
        old.state, old.expiry = 0, 0
        old.ticket, old.ticket_epoch, old.ticket_position, old.ticket_until = NO_TICKET, NO_ID, 0, 0
        redis.call('SET', KEYS[2], record_encode(old, ''), 'KEEPTTL')
    end
    return answer(outdated and 'OUTDATED' or void and 'REFUSED' or 'OK')
end
record.born, record.changed, record.seen = head.position, old.changed, greater(record.source, old.seen)
record_store(KEYS[2], record, sealed, px)
return answer('OK')
