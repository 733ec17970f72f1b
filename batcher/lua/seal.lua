#!lua flags=allow-oom
-- Close one partition's share of window n, empty or not.
-- KEYS[1] head. ARGV: key prefix, connection, n.
-- A number at or below the last one sealed gets its mark again and moves nothing.
-- Reply: OK, n, from, to, rows, digest, removals | GONE, last | LOST.
local head, p, name, n = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local h = redis.call('HMGET', head, 'next', 'marks')
if not h[1] then return {'LOST'} end
local seals = p .. 'seals:' .. name
local s = redis.call('HMGET', seals, 'last', 'to', 'rows', 'digest', 'mark:' .. n, 'from')
if tonumber(n) <= tonumber(s[1] or '0') then
  if not s[5] then return {'GONE', s[1]} end
  local from, to, rows, removals, digest = string.match(s[5], '^(%d+) (%d+) (%d+) (%d+) (%x*)$')
  return {'OK', n, from, to, rows, digest, removals}
end
-- The first window of a connection begins with its first row; every other where the one before ended.
local from, to, rows, digest = s[2] or s[6] or h[1], h[1], s[3] or '0', s[4] or ''
if redis.call('EXISTS', p .. 'open:' .. name) == 1 then
  redis.call('RENAME', p .. 'open:' .. name, p .. 'sealed:' .. name .. ':' .. n)
end
if redis.call('EXISTS', p .. 'latest:' .. name) == 1 then
  redis.call('RENAME', p .. 'latest:' .. name, p .. 'sealed-latest:' .. name .. ':' .. n)
end
redis.call('HDEL', seals, 'rows', 'digest', 'bytes', 'opened')
redis.call('HSET', seals, 'last', n, 'to', to,
  'mark:' .. n, table.concat({from, to, rows, h[2], digest}, ' '))
return {'OK', n, from, to, rows, digest, h[2]}
