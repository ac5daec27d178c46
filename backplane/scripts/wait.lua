-- wait.lua - what every host has applied, for who waits until all have.
--
-- KEYS  head, hosts                     ARGV  context
-- Reply OK epoch position time max_staleness registry {host id, value...}
--
-- The registry's id is empty, and there are no hosts, where head and registry name different ones: one of them was
-- lost, and nobody can say who is missing.

if #KEYS ~= 2 then return redis.error_reply('ERR freshet: a wait that makes no sense') end
local done = begin()
if done then return done end

local registry, hosts = '', {}
if redis.pcall('HGET', KEYS[2], 'registry') == head.registry then
    registry = head.registry
    local all = redis.call('HGETALL', KEYS[2])
    for i = 1, #all, 2 do
        if #all[i] == 16 then hosts[#hosts + 1], hosts[#hosts + 2] = all[i], all[i + 1] end
    end
end
local reply = answer('OK')
reply[5], reply[6], reply[7] = decimal(head.max_staleness), registry, hosts
return reply
