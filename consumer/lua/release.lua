#!lua flags=allow-oom
-- Have deliveries that wait for a person tried again: an operator has said so.
-- KEYS[1] head. ARGV: 1 key prefix, 2 connection; then per delivery: offset, referral id.
-- Each is due now, and what counted as unknown is settled; later deliveries of its referral that wait
-- for it follow it at once, in their order. `released` names the connection until the owner has looked.
-- Reply: OK, how many were held | LOST.
local p, lane = ARGV[1], ARGV[1] .. 'lane:' .. ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 0 then return {'LOST'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local released = 0
for i = 3, #ARGV, 2 do
  local offset, id = ARGV[i], ARGV[i + 1]
  if redis.call('ZREM', lane .. ':held', offset) == 1 and redis.call('HEXISTS', lane .. ':body', offset) == 1 then
    local attempts = string.match(redis.call('HGET', lane .. ':tries', offset) or '', '^%d+') or '0'
    redis.call('HSET', lane .. ':tries', offset, attempts .. ' 0')
    redis.call('ZADD', lane .. ':again', string.format('%d', now), offset)
    local followers = {}
    for known in string.gmatch(redis.call('HGET', lane .. ':late', id) or '', '%S+') do
      if tonumber(known) > tonumber(offset) and redis.call('ZREM', lane .. ':behind', known) == 1 then
        followers[#followers + 1] = known
      end
    end
    table.sort(followers, function(a, b) return tonumber(a) < tonumber(b) end)
    for n, known in ipairs(followers) do
      redis.call('ZADD', lane .. ':again', string.format('%d', now + n), known)
    end
    released = released + 1
  end
end
if released > 0 then redis.call('SADD', p .. 'released', ARGV[2]) end
return {'OK', released}
