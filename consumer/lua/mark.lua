#!lua flags=allow-oom
-- Note a removal in one partition's slot: WITHDRAWN or ERASED, for everything not yet delivered.
-- KEYS[1] head. ARGV: key prefix, referral id, kind ('W' or 'E'), revision, coordinates of the event,
--                     ms after which a mark may be forgotten.
-- The same event again changes nothing. ERASED is never weakened to WITHDRAWN.
-- A mark is `kind revision withdrawn erased ms coordinates`: the revision WITHDRAWN reaches up to, and the
-- sequence numbers (0 for never) since when the referral is withdrawn and erased, for windows sealed between.
-- Reply: OK, sequence | LOST.
local head, p, id = KEYS[1], ARGV[1], ARGV[2]
local marks = redis.call('HGET', head, 'marks')
if not marks then return {'LOST'} end
local removed, order = p .. 'removed', p .. 'removals'
local kind, revision, withdrawn, erased = ARGV[3], tonumber(ARGV[4]), '0', '0'
local sequence = string.format('%d', tonumber(marks) + 1)
local known = redis.call('HGET', removed, id)
if known then
  local k, r
  k, r, withdrawn, erased = string.match(known, '^(%a) (%d+) (%d+) (%d+)')
  if k == 'E' or (k == kind and tonumber(r) >= revision) then return {'OK', marks} end
  revision = kind == 'E' and tonumber(r) or math.max(revision, tonumber(r))
end
if kind == 'E' then erased = sequence elseif withdrawn == '0' then withdrawn = sequence end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', head, 'marks', sequence)
redis.call('HSET', removed, id,
  string.format('%s %d %s %s %d %s', kind, revision, withdrawn, erased, now, ARGV[5]))
redis.call('ZADD', order, sequence, id)
for _, old in ipairs(redis.call('ZRANGE', order, 0, 9)) do
  local ms = string.match(redis.call('HGET', removed, old) or '', '^%a %d+ %d+ %d+ (%d+)')
  if ms and tonumber(ms) > now - tonumber(ARGV[6]) then break end
  redis.call('ZREM', order, old)
  redis.call('HDEL', removed, old)
end
return {'OK', sequence}
