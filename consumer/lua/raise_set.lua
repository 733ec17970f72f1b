#!lua flags=allow-oom
-- Have a partition refuse sets older than this one. KEYS[1] head. ARGV: version. Reply: OK.
local set = redis.call('HGET', KEYS[1], 'set')
if set and tonumber(set) < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'set', ARGV[1]) end
return {'OK'}
