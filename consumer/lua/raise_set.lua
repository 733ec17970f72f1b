#!lua flags=allow-oom
-- Have a partition refuse sets older than this one. KEYS[1] head. ARGV: version.
-- Reply: OK, the offset from which on records are taken under it.
local h = redis.call('HMGET', KEYS[1], 'set', 'next', 'set-from')
if not h[1] then return {'OK', '0'} end
if tonumber(h[1]) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'set', ARGV[1], 'set-from', h[2])
  return {'OK', h[2]}
end
-- A worker that knew of it earlier took records under it already.
return {'OK', h[3] or h[2]}
