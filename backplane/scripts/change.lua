-- change.lua - invalidate keys, or clear the partition.
--
-- KEYS  head, log, record...            ARGV  context, channel, signed message, "invalidate" or "clear",
-- Reply OK epoch position time                source version (8), tombstone's life in ms

local channel, message, kind, source, life = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
if (kind ~= 'invalidate' and kind ~= 'clear') or #source ~= 8 or not life or life < 0 or life > POSITION_MAX / 1000
    or #message < 128 or (kind == 'clear') ~= (#KEYS == 2) then
    return redis.error_reply('ERR freshet: a change that makes no sense')
end
local done = begin(KEYS[2])
if done then return done end

local failed = append(KEYS[2], message)
if failed then return failed end
if kind == 'clear' then head.clear, head.reset, head.cleared_us = head.position, head.position, now end
trim(KEYS[2])
head_write()

-- A tombstone says when the key changed and keeps its source version; it breaks the ticket, if there is one.  The
-- write's name is in the message: key id 8, signature 64, then the body, with version and writer at 20 and 28.
local version, writer = string.sub(message, 93, 100), string.sub(message, 101, 108)
for i = 3, #KEYS do
    local old = record_decode(get(KEYS[i]))
    local seen = old and greater(source, old.seen) or source
    local px = seen == NO_ID and FRESH_MS or math.max(FRESH_MS, life)
    redis.call('SET', KEYS[i], record_encode({
        state = 0, born = head.position, version = version, writer = writer, source = source, expiry = 0, changed = now,
        seen = seen, ticket = NO_TICKET, ticket_epoch = NO_ID, ticket_position = 0, ticket_until = 0,
    }, ''), 'PX', decimal(px))
end
publish(channel, message)
return answer('OK')
