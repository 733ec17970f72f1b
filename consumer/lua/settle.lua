#!lua flags=allow-oom
-- Write what became of deliveries, and renew the lease.
-- KEYS[1] head.
-- ARGV: 1 key prefix, 2 epoch, 3 lease in ms, 4 number of facts; per fact: connection, offset, outbox entry;
--       then the number of reschedules; per reschedule: connection, offset, due in ms, attempts so far.
-- Facts are not fenced: "delivered" is true whoever says it. Reschedules and the lease are the owner's.
-- Reply: OK, epoch, marks, set, length of the outbox | FENCED, epoch, … | LOST.
local head, p = KEYS[1], ARGV[1]
local h = redis.call('HMGET', head, 'epoch', 'marks', 'set')
if not h[1] then return {'LOST'} end
local at = 5
for i = 1, tonumber(ARGV[4]) do
  local lane, offset, entry = p .. 'lane:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if redis.call('HDEL', lane .. ':body', offset) == 1 then
    redis.call('ZREM', lane .. ':due', offset)
    redis.call('HDEL', lane .. ':attempts', offset)
    redis.call('RPUSH', p .. 'outbox', entry)
  end
  at = at + 3
end
local owner = h[1] == ARGV[2]
if owner then
  local number = tonumber(ARGV[at])
  at = at + 1
  for i = 1, number do
    local lane, offset = p .. 'lane:' .. ARGV[at], ARGV[at + 1]
    if redis.call('HEXISTS', lane .. ':body', offset) == 1 then
      redis.call('ZADD', lane .. ':due', ARGV[at + 2], offset)
      redis.call('HSET', lane .. ':attempts', offset, ARGV[at + 3])
    end
    at = at + 4
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', head, 'lease', string.format('%d', now + tonumber(ARGV[3])))
end
return {owner and 'OK' or 'FENCED', h[1], h[2], h[3], redis.call('LLEN', p .. 'outbox')}
