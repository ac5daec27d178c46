-- head.lua - what every script does first: it stands before each of them (embed.py joins the texts).
--
-- A script reads and judges before it writes: Redis does not roll back, so whatever may fail has to fail while nothing
-- has been written.  Order of a change: a new epoch, if this server did not write the head; the log; the head; the
-- records; PUBLISH last, through pcall (a caller without the channel must not lose the write).
--
-- Numbers are doubles: positions and times stay below 2^53 and are printed with %.0f.  Ids (epoch, writer, source
-- version) use all 64 bits and stay strings of 8 bytes, which compare as the numbers they spell, byte by byte.

local FORMAT, HEAD_SIZE, RECORD_HEAD, CONTEXT_SIZE = 2, 132, 100, 64
local TAGS_MAX, GUARDS_MAX, GUARD_SIZE = 17, 64, 24 -- that a record may have
local GUARD_MS_MAX = 600000 -- no guard is granted for longer
local POSITION_AT = 52 -- in a head
local LOG_MOST = '100000'
local STEP = 4294967296 -- 2^32: how far a new epoch leaps over everything known
local POSITION_MAX = 9007190664806400 -- 2^53 - 2^33: beyond it only a forger goes
local REACH = 1125899906842624 -- 2^50 us, 35 years: nothing further beyond the clock is believed
local START_REACH = REACH - 2 * STEP -- nor does a new epoch start beyond this, or it would be disbelieved at once
-- One call of struct for a whole layout: a field apiece took longer than Redis's own part of a change.
local HEAD_FORMAT = '>c8c40I8I8I8I4I2I2c16I8I8I8I8'
local RECORD_FORMAT = '>I8c8c8c8I8I8c8c16c8I8I8'
local NO_ID, NO_TICKET = string.rep('\0', 8), string.rep('\0', 16)
local FRESH_MS, FRESH_US = 10000, 10000000 -- how long a change is remembered, for prefer_primary
local KEEP_MS = 86400000 -- and how long a source version

local now -- us of this server's clock
local replid, context, head

local function u64(bytes, at) return (struct.unpack('>I8', bytes, at)) end
local function pack64(number) return struct.pack('>I8', number) end
-- Not '%.0f', which is four times as slow; a server of 64 bits prints all 53 (a host that joins asks for one).
local function decimal(number) return string.format('%d', number) end

-- Compare byte by byte: `<` on strings would ask the locale.
local function below(a, b)
    if a == b then return false end
    for i = 1, 8 do
        local x, y = string.byte(a, i), string.byte(b, i)
        if x ~= y then return x < y end
    end
    return false
end

-- A string key's bytes; false when there is none, or something else stands in its place.
local function get(key)
    local bytes = redis.pcall('GET', key)
    return type(bytes) == 'string' and bytes
end

-- The head's fields; nil when it is absent or garbled.  `format` alone when it is another format's.
local function head_decode(bytes)
    if not bytes or string.sub(bytes, 1, 2) ~= 'FH' then return nil end
    if string.byte(bytes, 3) ~= FORMAT then return {format = string.byte(bytes, 3) or 0} end
    if #bytes ~= HEAD_SIZE then return nil end
    local _
    local h = { -- named at once: a table that grows name by name is made five times over
        epoch = '', replid = '', position = 0, clear = 0, tag = 0, max_staleness = 0, partitions = 0, registry = '',
        mark = 0, mark_us = 0, reset = 0, cleared_us = 0,
    }
    h.epoch, h.replid, h.position, h.clear, h.tag, h.max_staleness, h.partitions, _, h.registry, h.mark, h.mark_us,
        h.reset, h.cleared_us = struct.unpack(HEAD_FORMAT, bytes, 5)
    if h.position > math.min(now + REACH, POSITION_MAX) then return nil end
    if h.clear > h.position or h.tag > h.position or h.reset > h.position then return nil end
    return h
end

local function head_write()
    redis.call('SET', KEYS[1], 'FH' .. string.char(FORMAT, 0) .. struct.pack(HEAD_FORMAT, head.epoch, head.replid,
        head.position, head.clear, head.tag, head.max_staleness, head.partitions, 0, head.registry, head.mark,
        head.mark_us, head.reset, head.cleared_us))
end

-- The last id that a log ever gave; 0 when there is no log.  Something else in its place counts as the highest id.
local function log_last(log)
    local info = redis.pcall('XINFO', 'STREAM', log)
    if info.err then
        local kind = redis.pcall('TYPE', log).ok
        return (kind == 'none' or kind == 'stream') and 0 or POSITION_MAX + STEP
    end
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) or 0 end
    end
    return 0
end

-- Begin the next epoch.  It starts above everything known, so that no position ever means two things; what is older is
-- void, since clear = start.  Only a real clear moves `reset`: source versions survive a fail-over.
local function rotate(log)
    local start = now
    if head then start = math.max(start, head.position) end
    if context.hint <= now + START_REACH then start = math.max(start, context.hint) end
    if log then
        local last = log_last(log)
        if last <= now + START_REACH then start = math.max(start, last) end
        redis.call('UNLINK', log)
    end
    if start > math.min(now + START_REACH, POSITION_MAX - STEP) then start = now end -- only a forger gets there
    start = start + STEP
    head = {
        epoch = context.epoch, replid = replid, position = start, clear = start, tag = 0,
        max_staleness = head and head.max_staleness or context.max_staleness,
        partitions = head and head.partitions or context.partitions,
        registry = context.registry, mark = start, mark_us = now, reset = head and head.reset or 0,
        cleared_us = now,
    }
    head_write()
end

-- Read context, clock, server and head; begin an epoch where this server has none.  Returns a reply to end with.
local function begin(log)
    local bytes = ARGV[1]
    if not bytes or #bytes ~= CONTEXT_SIZE then return redis.error_reply('ERR freshet: a context has 64 bytes') end
    local _
    context = {epoch = '', registry = '', known = '', hint = 0, max_staleness = 0, partitions = 0, random = ''}
    context.epoch, context.registry, context.known, context.hint, context.max_staleness, context.partitions, _,
        context.random = struct.unpack('>c8c16c8I8I4I2I2c16', bytes)
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000000 + tonumber(time[2])
    local info = redis.call('INFO', 'replication')
    local _, at = string.find(info, 'master_replid:', 1, true) -- a pattern would be tried at each of its bytes
    replid = at and string.match(string.sub(info, at + 1, at + 41), '^%x+')
    if not replid or #replid ~= 40 then return redis.error_reply('ERR freshet: INFO shows no master_replid') end
    -- A replica would answer what it does not write, and prove nothing by it.
    if not string.find(info, 'role:master', 1, true) then
        return redis.error_reply('READONLY freshet: this server is a replica')
    end
    head = head_decode(get(KEYS[1]))
    if head and head.format then return {'CONFLICT', 'format', decimal(head.format), decimal(FORMAT)} end
    if head and head.partitions ~= context.partitions then
        return {'CONFLICT', 'partitions', decimal(head.partitions), decimal(context.partitions)}
    end
    if head and head.max_staleness < context.max_staleness then
        return {'CONFLICT', 'max_staleness', decimal(head.max_staleness), decimal(context.max_staleness)}
    end
    local ahead = context.hint <= now + START_REACH and head and context.hint > head.position
    if not head or head.replid ~= replid or ahead then rotate(log) end
    return nil
end

local function answer(status) return {status, head.epoch, decimal(head.position), decimal(now)} end

-- A record's fields; nil when it is absent or garbled.
local function record_decode(bytes)
    if not bytes or #bytes < RECORD_HEAD or string.sub(bytes, 1, 2) ~= 'FR' or string.byte(bytes, 3) ~= FORMAT then
        return nil
    end
    local r = {state = string.byte(bytes, 4)}
    r.born, r.version, r.writer, r.source, r.expiry, r.changed, r.seen, r.ticket, r.ticket_epoch, r.ticket_position,
        r.ticket_until = struct.unpack(RECORD_FORMAT, bytes, 5)
    if r.state > 2 then return nil end
    if r.state == 0 then -- behind a tombstone stand its guards, 24 bytes each
        r.guards = string.sub(bytes, RECORD_HEAD + 1)
        if #r.guards % GUARD_SIZE ~= 0 or #r.guards > GUARD_SIZE * GUARDS_MAX then return nil end
    else -- behind the others the tags, 8 bytes each, and the sealed answer
        local count = string.byte(bytes, RECORD_HEAD + 1) or TAGS_MAX + 1
        if count > TAGS_MAX or #bytes < RECORD_HEAD + 1 + 8 * count then return nil end
        r.tags = string.sub(bytes, RECORD_HEAD + 2, RECORD_HEAD + 1 + 8 * count)
    end
    if r.born < head.reset then r.seen = NO_ID end -- a clear lets source versions begin again
    return r
end

-- A tombstone has no sealed answer, and perhaps guards; the others have one, and perhaps tags.
local function record_encode(r, sealed)
    local rest = r.state == 0 and (r.guards or '') or string.char(#r.tags / 8) .. r.tags .. sealed
    return 'FR' .. string.char(FORMAT, r.state) .. struct.pack(RECORD_FORMAT, r.born, r.version, r.writer, r.source,
        r.expiry, r.changed, r.seen, r.ticket, r.ticket_epoch, r.ticket_position, r.ticket_until) .. rest
end

-- The guards of a record that are in force, and apart from them the one named `own`: count, bytes, latest deadline, and
-- own's deadline.  Where the record changed later than it is now, the clock was put back since: they have left what
-- they had then, or an orphan would stay for as long as the clock lacks.  One that is further off than any that is
-- granted is a forger's: it is cut to the longest.  Who writes down what was `cut` writes `changed` too.
local NO_GUARDS = {count = 0, bytes = '', latest = 0}
local function guards_read(r, own)
    if not r or not r.guards or r.guards == '' then return NO_GUARDS end
    local found = {count = 0, latest = 0}
    local bytes, longest, kept = r.guards, now + GUARD_MS_MAX * 1000, {}
    local back = math.max(0, r.changed - now)
    found.cut = back > 0
    for at = 1, #bytes, GUARD_SIZE do
        local id, ends = struct.unpack('>c16I8', bytes, at)
        ends = ends - back
        if ends > longest then ends, found.cut = longest, true end
        if ends > now and id == own then
            found.own = ends
        elseif ends > now then
            kept[#kept + 1] = id .. pack64(ends)
            found.latest = math.max(found.latest, ends)
        end
    end
    found.count, found.bytes = #kept, table.concat(kept)
    return found
end

-- A word of the table of tags; nil when it has none, or is none.
local function tag_word(key, slot)
    local bytes = redis.pcall('GETRANGE', key, 8 * slot, 8 * slot + 7)
    return type(bytes) == 'string' and #bytes == 8 and u64(bytes) or nil
end

-- The slot of a tag: the low word of its hash, which is little-endian, mod 4,096; word 0 is the table's own.
local function tag_slot(bytes, at)
    local low, high = string.byte(bytes, at, at + 1)
    return 1 + low + high % 16 * 256
end

-- Has none of these tags changed since the position `since`?  The table holds the changes up to its word 0; where that
-- is not what the head says the table was lost, and any tag may have changed.
local function tags_stand(key, tags, since)
    if tags == '' or head.tag <= since then return true end
    local whole = tag_word(key, 0)
    if not whole or whole < head.tag or whole > head.position then return false end
    for at = 1, #tags, 8 do
        local changed = tag_word(key, tag_slot(tags, at))
        if not changed or changed > since then return false end
    end
    return true
end

local function greater(a, b) return below(a, b) and b or a end

-- A live record out of a put's or a fill's arguments, which begin at ARGV[at]; nil when they make no sense.
local function record_from(at)
    local r = {
        state = tonumber(ARGV[at]), version = ARGV[at + 1], writer = ARGV[at + 2], source = ARGV[at + 3],
        expiry = tonumber(ARGV[at + 4]), changed = 0, seen = ARGV[at + 3],
        ticket = NO_TICKET, ticket_epoch = NO_ID, ticket_position = 0, ticket_until = 0, tags = ARGV[at + 7] or '',
    }
    local sealed, px = ARGV[at + 5], tonumber(ARGV[at + 6])
    if (r.state ~= 1 and r.state ~= 2) or #r.version ~= 8 or #r.writer ~= 8 or #r.source ~= 8 then return nil end
    if not r.expiry or r.expiry < 0 or r.expiry > POSITION_MAX or not px or px < 0 or px > POSITION_MAX / 1000 then
        return nil
    end
    if #sealed < 48 or #r.tags % 8 ~= 0 or #r.tags > 8 * TAGS_MAX then return nil end
    return r, sealed, px
end

-- Store a live record.  It stays for at least as long as its change is to be remembered, and for ever only if it does
-- not expire; what is past its expiry counts as no entry.
local function record_store(key, r, sealed, px)
    if px == 0 and r.expiry > 0 then px = math.max(1, math.ceil((r.expiry - now) / 1000)) end
    if px == 0 then
        redis.call('SET', key, record_encode(r, sealed))
    else
        if now - r.changed < FRESH_US then px = math.max(px, FRESH_MS) end
        redis.call('SET', key, record_encode(r, sealed), 'PX', decimal(px))
    end
end

-- The name of the write that a signed message is about, its version and writer: key id 8, signature 64, then the body,
-- which has them at 20 and 28.
local function named(message) return string.sub(message, 93, 100), string.sub(message, 101, 108) end

-- Store what a change leaves of a key: a tombstone says when the key changed, keeps its source version and its guards,
-- and outlives them; it breaks the ticket, if there is one.
local function bury(key, old, version, writer, source, life, guards)
    local seen = old and greater(source, old.seen) or source
    local px = seen == NO_ID and FRESH_MS or math.max(FRESH_MS, life)
    if guards.count > 0 then px = math.max(px, math.ceil((guards.latest - now) / 1000) + 1000) end
    redis.call('SET', key, record_encode({
        state = 0, born = head.position, version = version, writer = writer, source = source, expiry = 0, changed = now,
        seen = seen, ticket = NO_TICKET, ticket_epoch = NO_ID, ticket_position = 0, ticket_until = 0,
        guards = guards.bytes,
    }, ''), 'PX', decimal(px))
end

-- Take the next position and write the signed message to the log.  The log is the first thing written: when it refuses,
-- nothing has happened yet.  If a foreign id or type stands in the way a new epoch leaps over it; any other refusal (no
-- memory, no permission) is the caller's to hear.
local function append(log, message)
    for try = 1, 2 do
        local id = redis.pcall('XADD', log, decimal(head.position + 1) .. '-0', 'f', message)
        if type(id) ~= 'table' or not id.err then
            head.position = head.position + 1
            return nil
        end
        if try == 2 or log_last(log) <= head.position then return id end
        rotate(log)
    end
end

-- Once a minute forget what is older than the last mark: a host that was away for longer repairs itself.  And at no
-- time keep much more than LOG_MOST entries.
local function trim(log)
    if head.position % 1024 == 0 then redis.pcall('XTRIM', log, 'MAXLEN', '~', LOG_MOST) end
    if now - head.mark_us < 60000000 and now >= head.mark_us then return false end
    redis.pcall('XTRIM', log, 'MINID', '~', decimal(head.mark))
    head.mark, head.mark_us = head.position, now
    return true
end

-- An ordinary change moves the position and nothing else: 8 bytes are quicker written than the whole.
local function head_move(log)
    if trim(log) then return head_write() end
    redis.call('SETRANGE', KEYS[1], POSITION_AT, pack64(head.position))
end

local function publish(channel, message)
    redis.pcall('PUBLISH', channel, pack64(head.position) .. head.epoch .. message)
end
