#!lua flags=allow-oom
-- Write what became of deliveries, and renew the lease.
-- KEYS[1] head.
-- ARGV: 1 key prefix, 2 epoch, 3 lease in ms, 4 ms a delivery made can be taken back,
--       5 number of facts; per fact: connection, offset, outbox entry, referral id, revision, delivery that
--         takes it back ('' for none), '1' to take it back now;
--       then the number of reschedules; per reschedule: connection, offset, due in ms ('' to hold it,
--         'behind' to have it wait for one that is held), tries, referral id, outbox entry ('' for none).
-- Facts are not fenced: "delivered" is true whoever says it. Reschedules and the lease are the owner's.
-- Reply: OK, epoch, marks, set, length of the outbox, connections with a delivery that
--        memory does not know | FENCED, … | LOST.
local head, p = KEYS[1], ARGV[1]
local h = redis.call('HMGET', head, 'epoch', 'marks', 'set')
if not h[1] then return {'LOST'} end
local owner = h[1] == ARGV[2]
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))

-- `late` names the offsets of each referral that were put off: what comes after them must wait.
local function forget_late(lane, id, offset)
  local left = {}
  for known in string.gmatch(redis.call('HGET', lane .. ':late', id) or '', '%S+') do
    if known ~= offset then left[#left + 1] = known end
  end
  if #left == 0 then
    redis.call('HDEL', lane .. ':late', id)
  else
    redis.call('HSET', lane .. ':late', id, table.concat(left, ' '))
  end
end

local function note_late(lane, id, offset)
  local known = redis.call('HGET', lane .. ':late', id)
  if not known then
    redis.call('HSET', lane .. ':late', id, offset)
  elseif not string.find(' ' .. known .. ' ', ' ' .. offset .. ' ', 1, true) then
    redis.call('HSET', lane .. ':late', id, known .. ' ' .. offset)
  end
end

local function removed(id, revision)
  local kind, upto = string.match(redis.call('HGET', p .. 'removed', id) or '', '^(%a) (%d+)')
  return kind and (kind == 'E' or tonumber(revision) <= tonumber(upto))
end

local news = {}

-- What waits behind one that was held follows it at once, in its order.
local function let_go(name, lane, id, offset)
  local followers = {}
  for known in string.gmatch(redis.call('HGET', lane .. ':late', id) or '', '%S+') do
    if tonumber(known) > tonumber(offset) and redis.call('ZREM', lane .. ':behind', known) == 1 then
      followers[#followers + 1] = tonumber(known)
    end
  end
  if #followers == 0 then return end
  table.sort(followers)
  for n, known in ipairs(followers) do
    redis.call('ZADD', lane .. ':again', string.format('%d', tonumber(now) + n), string.format('%d', known))
  end
  news[#news + 1] = name
  -- A repeat finds nothing more to let go, and the reply that told of it may have been lost.
  redis.call('SADD', p .. 'released', name)
end

-- Whether an earlier delivery of its referral is held: it may have been let go since the owner looked.
local function waits(lane, id, offset)
  for known in string.gmatch(redis.call('HGET', lane .. ':late', id) or '', '%S+') do
    if tonumber(known) < tonumber(offset) and redis.call('ZSCORE', lane .. ':held', known) then return true end
  end
  return false
end

local at = 6
for i = 1, tonumber(ARGV[5]) do
  local name, offset, id = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local lane = p .. 'lane:' .. name
  local size = redis.call('HSTRLEN', lane .. ':body', offset)
  local back, place = ARGV[at + 5], string.format('%d', -tonumber(offset) - 1)
  if redis.call('HDEL', lane .. ':body', offset) == 1 then
    if redis.call('ZREM', lane .. ':due', offset) == 0 then
      redis.call('ZREM', lane .. ':again', offset)
      redis.call('ZREM', lane .. ':behind', offset)
      redis.call('HDEL', lane .. ':tries', offset)
      forget_late(lane, id, offset)
      if redis.call('ZREM', lane .. ':held', offset) == 1 then let_go(name, lane, id, offset) end
    end
    redis.call('RPUSH', p .. 'outbox', ARGV[at + 2])
    if back ~= '' then
      local gone = removed(id, ARGV[at + 4])
      if owner and gone or not gone and ARGV[at + 6] == '1' then
        redis.call('HSET', lane .. ':body', place, back)
        redis.call('ZADD', lane .. ':due', now, place)
        size = size - #back
        news[#news + 1] = name
      else
        local known = redis.call('HGET', lane .. ':made', id) or ''
        redis.call('HSET', lane .. ':made', id, known .. string.format('%s %s %d\n', offset, ARGV[at + 4], #back) .. back)
        redis.call('ZADD', lane .. ':made-at', now, id)
        for _, old in ipairs(redis.call('ZRANGE', lane .. ':made-at', '-inf', tonumber(now) - tonumber(ARGV[4]), 'BYSCORE', 'LIMIT', 0, 10)) do
          redis.call('HDEL', lane .. ':made', old)
          redis.call('ZREM', lane .. ':made-at', old)
        end
        -- The owner is not told by this reply: it meets the mark once more, and takes the delivery back.
        if gone then redis.call('ZADD', p .. 'removals', redis.call('HINCRBY', head, 'marks', 1), id) end
      end
    end
    redis.call('DECRBY', lane .. ':bytes', size)
  elseif back ~= '' and redis.call('HEXISTS', lane .. ':body', place) == 1 then
    -- A repeat: the reply that told of it may have been lost.
    news[#news + 1] = name
  end
  at = at + 7
end
if owner then
  local number = tonumber(ARGV[at])
  at = at + 1
  for i = 1, number do
    local lane, offset, due = p .. 'lane:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2]
    if redis.call('HEXISTS', lane .. ':body', offset) == 1 then
      -- What a repeat says of one that is held since is out of date.
      local held = redis.call('ZSCORE', lane .. ':held', offset)
      if not held then
        redis.call('ZREM', lane .. ':due', offset)
        redis.call('HSET', lane .. ':tries', offset, ARGV[at + 3])
        note_late(lane, ARGV[at + 4], offset)
        redis.call('ZREM', lane .. ':behind', offset)
        if due ~= '' and due ~= 'behind' then
          redis.call('ZADD', lane .. ':again', due, offset)
        elseif due == 'behind' and not waits(lane, ARGV[at + 4], offset) then
          redis.call('ZADD', lane .. ':again', string.format('%d', tonumber(now) + 1), offset)
          news[#news + 1] = ARGV[at]
        elseif due == 'behind' then
          redis.call('ZREM', lane .. ':again', offset)
          redis.call('ZADD', lane .. ':behind', now, offset)
        else
          redis.call('ZREM', lane .. ':again', offset)
          redis.call('ZADD', lane .. ':held', now, offset)
          if ARGV[at + 5] ~= '' then redis.call('RPUSH', p .. 'outbox', ARGV[at + 5]) end
        end
      end
    end
    at = at + 6
  end
  redis.call('HSET', head, 'lease', string.format('%d', tonumber(now) + tonumber(ARGV[3])))
end
return {owner and 'OK' or 'FENCED', h[1], h[2], h[3], redis.call('LLEN', p .. 'outbox'), table.concat(news, ' ')}
