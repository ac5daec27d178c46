-- leave.lua - take a host off the registry: its last process has gone, and serves nothing any more.
--
-- KEYS  hosts                           ARGV  context, host id (16)
-- Reply OK

redis.pcall('HDEL', KEYS[1], ARGV[2])
return {'OK'}
