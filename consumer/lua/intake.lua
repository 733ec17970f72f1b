#!lua
-- Take a batch of one partition: its rows and its next offset, in one step or not at all.
-- KEYS[1] head.
-- ARGV: 1 key prefix of the partition, 2 epoch, 3 prev, 4 next, 5 connection set, 6 lease in ms,
--       7 seconds a fingerprint is kept, 8 and 9 most deliveries and bytes of a lane,
--       10 number of records; then per record:
--       offset, fingerprint ('' for none), slot, shard, note, referral id, revision, number of targets;
--       then per target: 'L', connection, body, due in ms   a delivery of a lane
--                        'W', connection, row, ''           a row of a window
-- `note` goes to the outbox: of a record without fingerprint always, of others when it is a duplicate.
-- A lane over its cap parks: of the delivery only the offset is kept, and everything later joins it.
-- Reply: OK, verdicts, marks, parked lanes | FENCED, epoch | MOVED, next | STALE, set | LOST.
-- Verdicts, a letter a record: A accepted, R accepted but removed before, D duplicate, N noted.
-- Parked lanes: `connection offset` for each, from which offset on this call parked its deliveries.
local head, p = KEYS[1], ARGV[1]
local h = redis.call('HMGET', head, 'epoch', 'next', 'prev', 'verdicts', 'set', 'marks', 'parked')
if not h[2] then return {'LOST'} end
if h[1] ~= ARGV[2] then return {'FENCED', h[1]} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = string.format('%d', now + tonumber(ARGV[6]))
if h[3] == ARGV[3] and h[2] == ARGV[4] then
  -- The caller counts a lease from this call too.
  redis.call('HSET', head, 'lease', lease)
  return {'OK', h[4], h[6], h[7] or ''}
end
if h[2] ~= ARGV[3] then return {'MOVED', h[2]} end
if tonumber(ARGV[5]) < tonumber(h[5]) then return {'STALE', h[5]} end

local verdicts, lanes, windows, outbox = {}, {}, {}, {}
local most, most_bytes = tonumber(ARGV[8]), tonumber(ARGV[9])
local at = 11
for r = 1, tonumber(ARGV[10]) do
  local offset, fingerprint, slot, shard, note = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local id, revision, targets = ARGV[at + 5], tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  at = at + 8
  local verdict = 'N'
  if fingerprint ~= '' then
    local seen = p .. 'seen:' .. slot .. ':' .. shard
    local earlier = p .. 'seen:' .. string.format('%d', tonumber(slot) - 1) .. ':' .. shard
    local new = redis.call('SADD', seen, fingerprint) == 1
    if new and redis.call('SCARD', seen) == 1 then redis.call('EXPIRE', seen, ARGV[7]) end
    if not new or redis.call('SISMEMBER', earlier, fingerprint) == 1 then
      verdict = 'D'
    else
      verdict = 'A'
      if h[6] ~= '0' then
        local kind, upto = string.match(redis.call('HGET', p .. 'removed', id) or '', '^(%a) (%d+)')
        if kind and (kind == 'E' or revision <= tonumber(upto)) then verdict = 'R' end
      end
    end
  end
  verdicts[r] = verdict
  if (verdict == 'D' or verdict == 'N') and note ~= '' then outbox[#outbox + 1] = note end
  for t = 1, targets do
    if verdict == 'A' or verdict == 'R' then
      local kind, name, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
      if kind == 'L' then
        local l = lanes[name]
        if not l then
          local key = p .. 'lane:' .. name
          l = {key = key, count = redis.call('HLEN', key .. ':body'), added = 0, parked = {},
            bytes = tonumber(redis.call('GET', key .. ':bytes') or '0'),
            full = redis.call('EXISTS', key .. ':parked') == 1}
          lanes[name] = l
        end
        if l.count >= most or (l.count > 0 and l.bytes + l.added + #value > most_bytes) then l.full = true end
        if l.full then
          l.parked[#l.parked + 1] = offset
        else
          redis.call('HSET', l.key .. ':body', offset, value)
          -- Redis orders equal scores as text: within a millisecond, the order of the records counts.
          redis.call('ZADD', l.key .. ':due', string.format('%.4f', tonumber(ARGV[at + 3]) + r / 1024), offset)
          l.count = l.count + 1
          l.added = l.added + #value
        end
      else
        local w = windows[name]
        if not w then
          local s = redis.call('HMGET', p .. 'seals:' .. name, 'to', 'digest', 'rows', 'bytes')
          w = {floor = tonumber(s[1] or '0'), digest = s[2] or '', rows = {}, bytes = 0}
          windows[name] = w
        end
        -- A row below the floor is in a sealed window already, and never enters another.
        if tonumber(offset) >= w.floor then
          w.first = w.first or offset
          w.rows[#w.rows + 1] = value
          w.bytes = w.bytes + #value
          w.digest = redis.sha1hex(w.digest .. value)
          if revision > 0 then
            local latest = p .. 'latest:' .. name
            if tonumber(redis.call('HGET', latest, id) or '0') < revision then
              redis.call('HSET', latest, id, string.format('%d', revision))
            end
          end
        end
      end
    end
    at = at + 4
  end
end

local parked = {}
for name, l in pairs(lanes) do
  redis.call('SADD', p .. 'lanes', name)
  if l.added > 0 then redis.call('INCRBY', l.key .. ':bytes', l.added) end
  if #l.parked > 0 then parked[#parked + 1] = name .. ' ' .. l.parked[1] end
  for i = 1, #l.parked, 1000 do
    redis.call('RPUSH', l.key .. ':parked', unpack(l.parked, i, math.min(i + 999, #l.parked)))
  end
end
for name, w in pairs(windows) do
  -- unpack stops near 8,000 values.
  for i = 1, #w.rows, 1000 do
    redis.call('RPUSH', p .. 'open:' .. name, unpack(w.rows, i, math.min(i + 999, #w.rows)))
  end
  if #w.rows > 0 then
    local seals = p .. 'seals:' .. name
    redis.call('HSET', seals, 'digest', w.digest)
    redis.call('HINCRBY', seals, 'rows', #w.rows)
    redis.call('HINCRBY', seals, 'bytes', w.bytes)
    redis.call('HSETNX', seals, 'opened', string.format('%d', now))
    redis.call('HSETNX', seals, 'from', w.first)
  end
end
for i = 1, #outbox, 1000 do
  redis.call('RPUSH', p .. 'outbox', unpack(outbox, i, math.min(i + 999, #outbox)))
end
local answer = table.concat(verdicts)
if ARGV[5] ~= h[5] then redis.call('HSET', head, 'set-from', ARGV[3]) end
local where = table.concat(parked, ' ')
redis.call('HSET', head, 'prev', ARGV[3], 'next', ARGV[4], 'verdicts', answer, 'set', ARGV[5], 'lease', lease,
  'parked', where)
return {'OK', answer, h[6], where}
