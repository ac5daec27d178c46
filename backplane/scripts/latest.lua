-- latest.lua - the newest answer, without its bytes where the caller has them already.
--
-- KEYS  head, record, tagfence          ARGV  context, the caller's copy: born, version (8), writer (8); born 0: none
-- Reply RECORD epoch position time bytes
--       CURRENT epoch position time     the caller's copy is what stands there
--       NONE epoch position time        there is no entry

local born, version, writer = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not born or not writer or #version ~= 8 or #writer ~= 8 or #KEYS ~= 3 then
    return redis.error_reply('ERR freshet: a question that makes no sense')
end
local done = begin()
if done then return done end

local bytes = get(KEYS[2])
local record = record_decode(bytes)
if not record or record.state == 0 or record.born < head.clear or record.born > head.position
    or (record.expiry ~= 0 and record.expiry <= now) or not tags_stand(KEYS[3], record.tags, record.born) then
    return answer('NONE')
end
if born > 0 and record.born == born and record.version == version and record.writer == writer then
    return answer('CURRENT')
end
local reply = answer('RECORD')
reply[5] = bytes
return reply
