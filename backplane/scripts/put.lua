-- put.lua - store an answer for everybody: a change that brings the new answer along.
--
-- KEYS  head, log, record               ARGV  context, channel, signed message, state (1 value, 2 absent), version (8),
-- Reply OK epoch position time                writer (8), source version (8), expiry us, sealed, px ms (0: none),
--       OUTDATED epoch position time          tags (8 each)
-- OUTDATED: below the source version that the key has seen; nothing was stored.

local record, sealed, px = record_from(4)
if not record or #KEYS ~= 3 or #ARGV[3] < 128 then
    return redis.error_reply('ERR freshet: a put that makes no sense')
end
local done = begin(KEYS[2])
if done then return done end

local old = record_decode(get(KEYS[3]))
if old then
    if record.source ~= NO_ID and below(record.source, old.seen) then return answer('OUTDATED') end
    record.seen = greater(record.source, old.seen)
end
local failed = append(KEYS[2], ARGV[3])
if failed then return failed end
head_move(KEYS[2])
record.born, record.changed = head.position, now
record_store(KEYS[3], record, sealed, px)
publish(ARGV[2], ARGV[3])
return answer('OK')
