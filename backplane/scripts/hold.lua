-- hold.lua - prolong a guard whose holder lives.
--
-- KEYS  head, record...                 ARGV  context, guard's id (16), ms that it holds, epoch it was begun in (8)
-- Reply OK epoch position time held
--
-- held: "1" when it is in force on every key, and was so all the time; else it is lost, and what is left of it is
-- prolonged all the same.  What has ended is never begun again: somebody may have filled in between.

local id, hold, epoch = ARGV[2], tonumber(ARGV[3]), ARGV[4]
if #id ~= 16 or id == NO_TICKET or not hold or hold < 1 or hold > GUARD_MS_MAX or #epoch ~= 8 or #KEYS < 2 then
    return redis.error_reply('ERR freshet: a guard that makes no sense')
end
local done = begin()
if done then return done end

local held = head.epoch == epoch
for i = 2, #KEYS do
    local old = record_decode(get(KEYS[i]))
    local guards = guards_read(old, id)
    if guards.own then
        old.guards, old.changed = guards.bytes .. id .. pack64(now + hold * 1000), now
        local px = math.max(redis.call('PTTL', KEYS[i]), hold + 1000)
        redis.call('SET', KEYS[i], record_encode(old, ''), 'PX', decimal(px))
    else
        held = false
    end
end
local reply = answer('OK')
reply[5] = held and '1' or '0'
return reply
