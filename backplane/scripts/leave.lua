-- leave.lua - put a mark in a host's place in the registry, or take the host off: swap what stands there.
--
-- KEYS  head, hosts                     ARGV  context, host id (16), what must stand there ("": anything),
-- Reply OK epoch position time                what shall ("!" and up to 63 bytes; "": nothing)
--       REFUSED epoch position time     something else stands there, or nothing
--
-- Any report of the host overwrites its mark.  So where one mark has stood for longer than the fleet's max_staleness
-- the host serves nothing any more, and may go; a host that leaves marks itself, forgets its proof, and then goes.

local host, from, to = ARGV[2], ARGV[3], ARGV[4]
if #KEYS ~= 2 or not to or #host ~= 16 or #to > 64 or (to ~= '' and string.sub(to, 1, 1) ~= '!') then
    return redis.error_reply('ERR freshet: a leave that makes no sense')
end
local done = begin()
if done then return done end

local was = redis.pcall('HGET', KEYS[2], host)
if type(was) ~= 'string' or (from ~= '' and was ~= from) then return answer('REFUSED') end
if to == '' then
    redis.call('HDEL', KEYS[2], host)
else
    redis.call('HSET', KEYS[2], host, to)
end
return answer('OK')
