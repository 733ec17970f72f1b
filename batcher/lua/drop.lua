#!lua flags=allow-oom
-- Forget the rows and the mark of a window that has ended.
-- KEYS[1] head. ARGV: key prefix, connection, n. Reply: OK.
local p, name, n = ARGV[1], ARGV[2], ARGV[3]
redis.call('UNLINK', p .. 'sealed:' .. name .. ':' .. n, p .. 'sealed-latest:' .. name .. ':' .. n)
redis.call('HDEL', p .. 'seals:' .. name, 'mark:' .. n)
return {'OK'}
