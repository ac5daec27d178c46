-- guard.lua - begin or end a guard on some keys: a database write is in progress on them.  Both are invalidations.
--
-- KEYS  head, log, record...            ARGV  context, channel, signed message, "begin" or "end", guard's id (16), the
-- Reply OK epoch position time held           ms that it holds or the epoch that it was begun in (8), source version
--       FULL epoch position time              (8), tombstone's life in ms
--
-- held, of an end: "1" when the guard was held on every key from its begin to now: its id is still there, its deadline
-- has not passed, and the history is the one that it was begun in.  Whatever put an end to it took the id away.
-- FULL: a key has as many guards as it may have; nothing was written.

local channel, message, kind, id, source, life = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[7], tonumber(ARGV[8])
local hold, epoch = tonumber(ARGV[6]), ARGV[6]
local sound = life and life >= 0 and life <= POSITION_MAX / 1000 and #source == 8 and #message >= 128 and #KEYS > 2
    and #id == 16 and id ~= NO_TICKET
if kind == 'begin' then
    sound = sound and hold and hold >= 1 and hold <= GUARD_MS_MAX
else
    sound = sound and kind == 'end' and #epoch == 8
end
if not sound then return redis.error_reply('ERR freshet: a guard that makes no sense') end
local done = begin(KEYS[2])
if done then return done end

local olds, guards = {}, {}
for i = 3, #KEYS do
    olds[i] = record_decode(get(KEYS[i])) or false
    guards[i] = guards_read(olds[i], id)
    if kind == 'begin' and guards[i].count >= GUARDS_MAX then return answer('FULL') end
end
local failed = append(KEYS[2], message)
if failed then return failed end
head_move(KEYS[2])

local version, writer = named(message)
local held = kind == 'begin' or head.epoch == epoch
for i = 3, #KEYS do
    local found = guards[i]
    if kind == 'begin' then
        local ends = now + hold * 1000
        found = {
            count = found.count + 1, bytes = found.bytes .. id .. pack64(ends), latest = math.max(found.latest, ends),
        }
    else
        held = held and found.own ~= nil
    end
    bury(KEYS[i], olds[i], version, writer, source, life, found)
end
publish(channel, message)
local reply = answer('OK')
reply[5] = held and '1' or '0'
return reply
