-- change.lua - invalidate keys or tags, or clear the partition.
--
-- KEYS  head, log, then the records,    ARGV  context, channel, signed message, "invalidate", "tags" or "clear",
--       or the table of tags, or none         source version (8), tombstone's life in ms
-- Reply OK epoch position time

local TAG_WORDS = 4097 -- the table of tags: word 0, and 4,096 slots
local channel, message, kind, source, life = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local sound = #source == 8 and life and life >= 0 and life <= POSITION_MAX / 1000 and #message >= 128
if kind == 'invalidate' then
    sound = sound and #KEYS > 2
elseif kind == 'tags' then
    sound = sound and #KEYS == 3 and #message > 128 and #message % 16 == 0
else
    sound = sound and kind == 'clear' and #KEYS == 2
end
if not sound then return redis.error_reply('ERR freshet: a change that makes no sense') end
local done = begin(KEYS[2])
if done then return done end

-- The tags that the message names (16 bytes each, behind 72 bytes of signature and 56 of the body) changed just now.  A
-- table that lacks changes, or is no table, is written anew: every tag may have changed at its last known position.
local function tags_write(key, last)
    local whole = tag_word(key, 0)
    if redis.pcall('STRLEN', key) ~= 8 * TAG_WORDS or whole < last or whole > head.position then
        redis.call('SET', key, string.rep(pack64(last), TAG_WORDS))
    end
    local position = pack64(head.position)
    redis.call('SETRANGE', key, 0, position)
    for at = 129, #message, 16 do redis.call('SETRANGE', key, 8 * tag_slot(message, at), position) end
end

local failed = append(KEYS[2], message)
if failed then return failed end
if kind == 'invalidate' then
    head_move(KEYS[2])
else
    head.cleared_us = now
    if kind == 'clear' then head.clear, head.reset = head.position, head.position end
    if kind == 'tags' then
        tags_write(KEYS[3], head.tag)
        head.tag = head.position
    end
    trim(KEYS[2])
    head_write()
end

local version, writer = named(message)
for i = 3, kind == 'invalidate' and #KEYS or 0 do
    local old = record_decode(get(KEYS[i]))
    bury(KEYS[i], old, version, writer, source, life, guards_read(old))
end
publish(channel, message)
return answer('OK')
