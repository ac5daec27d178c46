-- put.lua - store an answer for everybody: a change that brings the new answer along.
--
-- KEYS  head, log, record               ARGV  context, channel, signed message, state (1 value, 2 absent), version (8),
-- Reply OK epoch position time                writer (8), source version (8), expiry us, sealed, px ms (0: none),
--       OUTDATED epoch position time          tags (8 each), until when (us of Redis's time)
--       GUARDED epoch position time
-- OUTDATED: below the source version that the key has seen; nothing was stored.  GUARDED: a database write is in
-- progress, so the answer may be older than it: nothing was stored, and the key is invalidated.  So it is with a put
-- that comes so late (out of a stopped network, or Redis itself was stopped) that its caller has given it up: others
-- may have changed the key since.  Where this clock shows less than when the put was signed it was put back in between,
-- and tells nothing of how late it is.

local CLOCK_SLACK_US = 50000 -- how far off a host's idea of this clock may be

local record, sealed, px = record_from(4)
local last = tonumber(ARGV[12] or POSITION_MAX)
local first = ARGV[12] and record and u64(record.version, 1) - CLOCK_SLACK_US or 0
if not record or #KEYS ~= 3 or #ARGV[3] < 128 or not last then
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
local guards = guards_read(old)
record.born, record.changed = head.position, now
local stored = guards.count == 0 and now <= last and now >= first
if not stored then
    bury(KEYS[3], old, record.version, record.writer, record.source, KEEP_MS, guards)
else
    record_store(KEYS[3], record, sealed, px)
end
publish(ARGV[2], ARGV[3])
return answer(stored and 'OK' or 'GUARDED')
