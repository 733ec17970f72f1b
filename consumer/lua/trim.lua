#!lua flags=allow-oom
-- Drop outbox entries that Kafka acknowledged, unless somebody else already did.
-- KEYS[1] head. ARGV: key prefix, base the entries were read at, number of entries.
-- Reply: OK, new base | MOVED, base.
local base = redis.call('HGET', KEYS[1], 'outbox') or '0'
if base ~= ARGV[2] then return {'MOVED', base} end
redis.call('LTRIM', ARGV[1] .. 'outbox', ARGV[3], -1)
base = string.format('%d', tonumber(base) + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'outbox', base)
return {'OK', base}
