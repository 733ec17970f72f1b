#!lua flags=allow-oom
-- Make a set of connections the current one, if the version it was based on still is.
-- KEYS[1] connections. ARGV: version it is based on, digest, definition.
-- Reply: OK, version | MOVED, version.
local h = redis.call('HMGET', KEYS[1], 'version', 'digest')
local version = h[1] or '0'
if h[2] == ARGV[2] then return {'OK', version} end
if version ~= ARGV[1] then return {'MOVED', version} end
version = string.format('%d', tonumber(version) + 1)
redis.call('HSET', KEYS[1], 'version', version, 'digest', ARGV[2], 'definition', ARGV[3], 'known:' .. ARGV[2], version)
return {'OK', version}
