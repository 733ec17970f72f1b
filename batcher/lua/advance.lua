#!lua flags=allow-oom
-- Write a window's next state, if the caller still holds it.
-- KEYS[1] window. ARGV: n, token, lease in ms (0 gives it back), then fields and values.
-- Reply: OK | FENCED.
local key = KEYS[1]
local w = redis.call('HMGET', key, 'n', 'token')
if w[1] ~= ARGV[1] or w[2] ~= ARGV[2] then return {'FENCED'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', key, 'until', string.format('%d', tonumber(ARGV[3]) == 0 and 0 or now + tonumber(ARGV[3])))
for i = 4, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
return {'OK'}
