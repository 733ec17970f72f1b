#!lua flags=allow-oom
-- Become the one who flushes a connection's window: open the next one, or take over an open one.
-- KEYS[1] window. ARGV: owner, lease in ms, slot to open ('' for none), number of the newest window
--                       the caller saw (0 for none), 1 when the slot is a scheduled one.
-- Reply: OK, then the window's fields and values | BUSY | NONE.
local key = KEYS[1]
local w = redis.call('HMGET', key, 'state', 'owner', 'until', 'n', 'last', 'token')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local open = w[1] and w[1] ~= 'CLOSED'
if open then
  if w[2] ~= ARGV[1] and tonumber(w[3]) > now then return {'BUSY'} end
else
  -- The slot was chosen by what the caller saw: if a window was opened meanwhile, it must choose again.
  if ARGV[3] == '' or (w[4] or '0') ~= ARGV[4] then return {'NONE'} end
  local last = ARGV[5] == '1' and ARGV[3] or w[5] or ''
  redis.call('DEL', key)
  redis.call('HSET', key, 'n', string.format('%d', tonumber(w[4] or '0') + 1), 'state', 'CLAIMED',
    'slot', ARGV[3], 'last', last, 'since', string.format('%d', now), 'token', w[6] or '0')
end
redis.call('HSET', key, 'owner', ARGV[1], 'until', string.format('%d', now + tonumber(ARGV[2])))
-- The token follows the clock, so that a Redis that went back cannot hand one out twice.
local token = math.max(tonumber(redis.call('HGET', key, 'token') or '0'), time[1] * 1000000 + time[2]) + 1
redis.call('HSET', key, 'token', string.format('%d', token))
local reply = redis.call('HGETALL', key)
table.insert(reply, 1, 'OK')
return reply
