-- ticket.lua - an answer, or the right to fill what is missing, for one caller at a time.
--
-- KEYS  head, record, table of tags     ARGV  context (its last 16 bytes name the ticket), ticket's life in ms,
--                                             until when (us of Redis's time) its caller waits for it
-- Reply RECORD epoch position time bytes
--       GUARDED epoch position time     a database write is in progress: nobody may fill
--       WAIT epoch position time        somebody else has the ticket
--       TICKET epoch position time prefer_primary ("1" or "0")

local TICKET_MS_MAX = 600000
local life, last = tonumber(ARGV[2]), tonumber(ARGV[3] or POSITION_MAX)
if not life or life < 1 or not last or #KEYS ~= 3 then
    return redis.error_reply('ERR freshet: a ticket that makes no sense')
end
local done = begin()
if done then return done end

life = math.min(life, TICKET_MS_MAX)
local bytes = get(KEYS[2])
local old = record_decode(bytes)
if old and old.state ~= 0 and old.born >= head.clear and old.born <= head.position
    and (old.expiry == 0 or old.expiry > now) and tags_stand(KEYS[3], old.tags, old.born) then
    local reply = answer('RECORD')
    reply[5] = bytes
    return reply
end
local guards = guards_read(old)
if guards.count > 0 then
    if guards.cut then
        old.guards, old.changed = guards.bytes, now
        redis.call('SET', KEYS[2], record_encode(old, ''), 'KEEPTTL')
    end
    return answer('GUARDED')
end
if old and old.ticket ~= NO_TICKET and old.ticket ~= context.random and old.ticket_epoch == head.epoch
    and old.ticket_position >= head.clear and old.ticket_until > now
    and old.ticket_until <= now + TICKET_MS_MAX * 1000 then -- further off only after the clock was put back
    return answer('WAIT')
end
-- Nobody would use it, and all others would wait for its end.
if now > last then return answer('WAIT') end

-- What was there is void or gone; what it knew (when it changed, which source version it had seen) stays for as long.
local px = life + 1000
if old then
    local left = redis.call('PTTL', KEYS[2])
    if left < 0 and old.seen ~= NO_ID then left = KEEP_MS end
    px = math.max(px, left)
    if now - old.changed < FRESH_US then px = math.max(px, FRESH_MS) end
else
    old = {version = NO_ID, writer = NO_ID, source = NO_ID, changed = 0, seen = NO_ID}
end
local prefer = now - math.max(old.changed, head.cleared_us) < FRESH_US
redis.call('SET', KEYS[2], record_encode({
    state = 0, born = head.position, version = old.version, writer = old.writer, source = old.source, expiry = 0,
    changed = old.changed, seen = old.seen, ticket = context.random, ticket_epoch = head.epoch,
    ticket_position = head.position, ticket_until = now + life * 1000,
}, ''), 'PX', decimal(px))
local reply = answer('TICKET')
reply[5] = prefer and '1' or '0'
return reply
