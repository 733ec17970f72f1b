#!lua
-- Bring deliveries of a parked lane back from Kafka: the first of its parked offsets, in their order.
-- KEYS[1] head.
-- ARGV: 1 key prefix, 2 epoch, 3 connection, 4 number; then per offset: offset, frozen delivery ('' to pass
--       it by), due in ms, outbox entry ('' for none; of what is passed by).
-- They come after what the lane holds, so none is due before the last of it: what intake adds from then on
-- is due later still.
-- Reply: OK, parked offsets left | FENCED, epoch | MOVED, first parked offset ('' for none) | LOST.
local p = ARGV[1]
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return {'LOST'} end
if epoch ~= ARGV[2] then return {'FENCED', epoch} end
local lane, number = p .. 'lane:' .. ARGV[3], tonumber(ARGV[4])
local parked = redis.call('LRANGE', lane .. ':parked', 0, number - 1)
for i = 1, number do
  if parked[i] ~= ARGV[1 + 4 * i] then return {'MOVED', parked[1] or ''} end
end
local last = tonumber(redis.call('ZRANGE', lane .. ':due', -1, -1, 'WITHSCORES')[2] or '0')
local added = 0
for i = 1, number do
  local at = 1 + 4 * i
  if ARGV[at + 1] ~= '' then
    -- A thousandth apart, since equal ones would be ordered as text.
    last = math.max(last + 1 / 1024, tonumber(ARGV[at + 2]))
    redis.call('HSET', lane .. ':body', ARGV[at], ARGV[at + 1])
    redis.call('ZADD', lane .. ':due', string.format('%.10f', last), ARGV[at])
    added = added + #ARGV[at + 1]
  elseif ARGV[at + 3] ~= '' then
    redis.call('RPUSH', p .. 'outbox', ARGV[at + 3])
  end
end
if added > 0 then redis.call('INCRBY', lane .. ':bytes', added) end
redis.call('LTRIM', lane .. ':parked', number, -1)
return {'OK', redis.call('LLEN', lane .. ':parked')}
