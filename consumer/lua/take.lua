#!lua flags=allow-oom
-- Become the owner of a partition: raise the epoch, start a lease, return the head.
-- KEYS[1] head. ARGV: owner, lease in ms, lowest epoch that is still free.
-- Reply: OK, epoch, next, ms until inherited deliveries may be loaded, marks, set | LOST.
--
-- `barrier` is when every earlier owner's lease has ended. It only grows: giving back a lease early
-- must not cut short that of the owner before. A crash of Redis may have taken back the
-- last two seconds of renewals (appendfsync everysec), so a lease not given back counts for so much longer.
-- The epoch follows the clock, so that a Redis that went back cannot hand one out twice.
local head = KEYS[1]
local h = redis.call('HMGET', head, 'epoch', 'next', 'lease', 'barrier', 'marks', 'set')
if not h[2] then return {'LOST'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = math.max(tonumber(h[1]), tonumber(ARGV[3]), time[1] * 1000000 + time[2]) + 1
local barrier = tonumber(h[4])
if h[3] ~= '0' then barrier = math.max(barrier, tonumber(h[3]) + 2000) end
redis.call('HSET', head, 'epoch', string.format('%d', epoch), 'owner', ARGV[1],
  'barrier', string.format('%d', barrier), 'lease', string.format('%d', now + tonumber(ARGV[2])))
return {'OK', string.format('%d', epoch), h[2], string.format('%d', math.max(0, barrier - now)), h[5], h[6]}
