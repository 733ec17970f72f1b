#!lua flags=allow-oom
-- Become the one who flushes a connection's window: open the next one, or take over an open one.
-- KEYS[1] window. ARGV: owner, lease in ms, slot to open ('' for none), last slot the caller saw,
--                       1 when the slot is a scheduled one.
-- Reply: OK, then the window's fields and values | BUSY | NONE.
local key = KEYS[1]
local w = redis.call('HMGET', key, 'state', 'owner', 'until', 'n', 'last', 'token')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local open = w[1] and w[1] ~= 'CLOSED'
if open then
  if w[2] ~= ARGV[1] and tonumber(w[3]) > now then return {'BUSY'} end
else
  -- The slot was chosen by what the caller saw: if another claimed one meanwhile, it must choose again.
  if ARGV[3] == '' or (w[5] or '') ~= ARGV[4] then return {'NONE'} end
  local last = ARGV[5] == '1' and ARGV[3] or w[5] or ''
  local token = w[6] or '0'
  redis.call('DEL', key)
  redis.call('HSET', key, 'n', string.format('%d', tonumber(w[4] or '0') + 1), 'state', 'CLAIMED',
    'slot', ARGV[3], 'last', last, 'since', string.format('%d', now), 'token', token)
end
redis.call('HSET', key, 'owner', ARGV[1], 'until', string.format('%d', now + tonumber(ARGV[2])))
redis.call('HINCRBY', key, 'token', 1)
local reply = redis.call('HGETALL', key)
table.insert(reply, 1, 'OK')
return reply
