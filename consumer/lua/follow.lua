#!lua flags=allow-oom
-- Have receivers forget what they were given of referrals that were removed since.
-- KEYS[1] head.
-- ARGV: 1 key prefix, 2 epoch, 3 and 4 sequence of the last mark followed, and of the last one looked at now,
--       5 number of connections; their names; referral ids.
-- Each delivery made and covered by its mark becomes a delivery that takes it back, once: it leaves `made`.
-- Reply: OK, connections with a delivery taken back | FENCED, epoch | LOST.
-- A caller that missed a reply comes with the same sequence again, and is told of that call's connections too.
local head, p = KEYS[1], ARGV[1]
local h = redis.call('HMGET', head, 'epoch', 'followed', 'taken-back')
if not h[1] then return {'LOST'} end
if h[1] ~= ARGV[2] then return {'FENCED', h[1]} end
local followed = tonumber(h[2] or '0')
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local ids, upto = {}, {}
for i = 6 + tonumber(ARGV[5]), #ARGV do
  local kind, revision = string.match(redis.call('HGET', p .. 'removed', ARGV[i]) or '', '^(%a) (%d+)')
  if kind then
    ids[#ids + 1] = ARGV[i]
    upto[#upto + 1] = kind == 'E' and math.huge or tonumber(revision)
  end
end
local taken_back = {}
if tonumber(ARGV[3]) < followed then
  for name in string.gmatch(h[3] or '', '%S+') do taken_back[name] = true end
end
for c = 6, 5 + tonumber(ARGV[5]) do
  local lane = p .. 'lane:' .. ARGV[c]
  local any = #ids > 0 and redis.call('EXISTS', lane .. ':made') == 1
  for i, made in ipairs(any and redis.call('HMGET', lane .. ':made', unpack(ids)) or {}) do
    if made then
      local left, at = '', 1
      while at <= #made do
        local _, stop, offset, revision, size = string.find(made, '^(%d+) (%d+) (%d+)\n', at)
        local back = string.sub(made, stop + 1, stop + tonumber(size))
        if tonumber(revision) <= upto[i] then
          local place = string.format('%d', -tonumber(offset) - 1)
          redis.call('HSET', lane .. ':body', place, back)
          redis.call('ZADD', lane .. ':due', now, place)
          redis.call('INCRBY', lane .. ':bytes', #back)
          taken_back[ARGV[c]] = true
        else
          left = left .. string.sub(made, at, stop + tonumber(size))
        end
        at = stop + tonumber(size) + 1
      end
      if left == '' then
        redis.call('HDEL', lane .. ':made', ids[i])
        redis.call('ZREM', lane .. ':made-at', ids[i])
      else
        redis.call('HSET', lane .. ':made', ids[i], left)
      end
    end
  end
end
local names = {}
for name in pairs(taken_back) do names[#names + 1] = name end
local told = table.concat(names, ' ')
redis.call('HSET', head, 'followed', string.format('%d', math.max(followed, tonumber(ARGV[4]))), 'taken-back', told)
return {'OK', told}
