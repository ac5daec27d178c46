-- report.lua - a host tells what it has applied, and learns what there is.
--
-- KEYS  head, log, hosts                ARGV  context, host id (16), applied, most entries, and
-- Reply OK epoch position time clear          perhaps one frame beyond `applied` whose fences are
--       max_staleness registry                up: "POSITION WRITER COUNTER" (decimal, hex, decimal)
--       {{position, signed message}...}
--
-- Entries come only to a host that knows this epoch, from applied + 1 on; whether they are dense is the host's to see.
-- Nothing is written when nothing is new: a quiet fleet's renewals cost Redis no replication.

local BYTES_MAX = 1048576
local host, applied, most, ahead = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] or ''
if #host ~= 16 or not applied or applied < 0 or not most or most < 0 or #KEYS ~= 3
    or (ahead ~= '' and (#ahead > 64 or not string.find(ahead, '^%d+ %x+ %d+$'))) then
    return redis.error_reply('ERR freshet: a report that makes no sense')
end
local done = begin(KEYS[2])
if done then return done end

-- The registry's id stands in the head and in the registry: where they differ one of them was lost, and whoever counts
-- on the registry must wait until all hosts had time to come back.
local registry = redis.pcall('HGET', KEYS[3], 'registry')
if registry ~= head.registry then
    head.registry = context.registry
    head_write()
    redis.call('UNLINK', KEYS[3])
    redis.call('HSET', KEYS[3], 'registry', head.registry)
end
local ours = context.known == head.epoch
local told = ours and decimal(math.min(applied, head.position)) or '0' -- of another history: nothing of this one
if ours and ahead ~= '' then told = told .. ' ' .. ahead end
local was = redis.call('HGET', KEYS[3], host)
if was ~= told then
    local set = redis.pcall('HSET', KEYS[3], host, told)
    -- Too low a figure only makes others wait, so a Redis without memory stops no renewal; not to be counted is worse,
    -- and who bears a mark is about to be taken off.
    if type(set) == 'table' and set.err and not (was and string.find(was, '^%d')) then return set end
end

local entries = {}
if ours and applied < head.position and most > 0 then
    local found = redis.pcall('XRANGE', KEYS[2], decimal(applied + 1), decimal(head.position), 'COUNT', decimal(most))
    if found.err then
        redis.call('UNLINK', KEYS[2]) -- not a log; the host sees the gap
        found = {}
    end
    local bytes = 0
    for i, entry in ipairs(found) do
        local message = entry[2][1] == 'f' and entry[2][2] or ''
        bytes = bytes + #message
        if i > 1 and bytes > BYTES_MAX then break end
        entries[i] = {string.match(entry[1], '^%d+'), message}
    end
end
local reply = answer('OK')
reply[5], reply[6], reply[7], reply[8] = decimal(head.clear), decimal(head.max_staleness), head.registry, entries
return reply
