#!lua flags=allow-oom
-- Lease a worker its share of what a credential allows, for one block.
-- KEYS[1] the credential's limits.
-- ARGV: 1 worker, 2 block in ms, 3 requests wanted, 4 requests under way, 5 ms they may still take,
--       6 requests at once ('' for no limit), 7 microseconds between requests ('' for no limit);
--       then per longer period: its ms, requests allowed in it.
-- Reply: requests granted, microseconds to the first place, microseconds between places, share of the
--        requests at once (-1 for no limit), ms after which to ask again.
-- Requests of a second get places on a line that all workers share. Longer periods are counted in 20 slices,
-- by the last moment a grant may be used; the slice that is leaving counts as a whole.
-- w:<worker> is "held wanted since ends": since when it holds, or waits. Who waits longest is next.
local key, worker = KEYS[1], ARGV[1]
local block, want, under_way = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at_once, apart = tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)

local function int(number) return string.format('%d', number) end

-- What stands there; what is over is deleted.
local line, mine, others, live = us, nil, 0, 1
local waiting, used, oldest, over = {}, {}, {}, {}
local entries = redis.call('HGETALL', key)
for i = 1, #entries, 2 do
  local field, value = entries[i], entries[i + 1]
  local name = string.match(field, '^w:(.*)$')
  local period, slice = string.match(field, '^(%d+):(%d+)$')
  if field == 'line' then
    line = math.max(us, tonumber(value))
  elseif name then
    local held, wanted, since, ends = string.match(value, '^(%d+) (%d+) (%d+) (%d+)$')
    held, wanted, since = tonumber(held), tonumber(wanted), tonumber(since)
    if tonumber(ends) <= now then
      over[#over + 1] = field
    elseif name == worker then
      mine = {held = held, since = since}
    else
      others, live = others + held, live + 1
      if held == 0 then waiting[#waiting + 1] = {since = since, name = name} end
    end
  elseif period then
    slice = tonumber(slice)
    if slice < math.floor(now / (period / 20)) - 20 then
      over[#over + 1] = field
    else
      used[period] = (used[period] or 0) + tonumber(value)
      oldest[period] = math.min(oldest[period] or slice, slice)
    end
  end
end
for _, field in ipairs(over) do redis.call('HDEL', key, field) end

local granted, again = want, 0
if want > 0 and not apart and #ARGV == 7 then granted = 10000 end

local share, since = -1, mine and mine.since or now
local holds = mine and mine.held > 0
if at_once then
  local free = at_once - others
  if not holds then
    for _, other in ipairs(waiting) do
      if other.since < since or (other.since == since and other.name < worker) then free = free - 1 end
    end
  end
  share = math.min(under_way + want, free)
  if #waiting > 0 then
    share = math.min(share, math.max(1, math.floor(at_once / live)))
    -- More workers than places: they take turns.
    if holds and live > at_once and now - since >= block then share = 0 end
  end
  share = math.max(0, share)
  if share == 0 then granted = 0 end
  if share < under_way + want then again = 50 end
end

for i = 8, #ARGV, 2 do
  local period = ARGV[i]
  local left = tonumber(ARGV[i + 1]) - (used[period] or 0)
  granted = math.min(granted, math.ceil(math.max(0, left) / live))
  if left <= 0 then
    local leaves = oldest[period] or math.floor(now / (period / 20))
    again = math.max(again, (leaves + 21) * (period / 20) - now)
  end
end

local wait = 0
if apart and granted > 0 then
  -- Further ahead than any grant reaches: the clock was set back.
  if line - us > block * 1000 + apart then line = us end
  wait = line - us
  -- Places beyond this block are for whoever asks next.
  local places = math.max(0, math.ceil((block * 1000 - wait) / apart))
  granted = math.min(granted, math.ceil(places / live))
  if granted == 0 then
    again = math.max(again, math.ceil((wait - block * 1000 + 1) / 1000))
  else
    redis.call('HSET', key, 'line', int(line + granted * apart))
  end
end

if granted == 0 then
  share = math.min(share, under_way)
else
  for i = 8, #ARGV, 2 do
    local slice = math.floor((now + block) / (ARGV[i] / 20))
    redis.call('HINCRBY', key, ARGV[i] .. ':' .. int(slice), granted)
  end
end
local held = at_once and math.max(share, under_way) or 0
if held == 0 and want == 0 then
  redis.call('HDEL', key, 'w:' .. worker)
else
  if (held > 0) ~= (holds or false) then since = now end
  local ends = held > 0 and now + block + tonumber(ARGV[5]) or now + again + 2 * block
  redis.call('HSET', key, 'w:' .. worker, string.format('%d %d %d %d', held, want, since, ends))
end
redis.call('EXPIRE', key, 2 * 86400)
return {granted, int(wait), int(apart or 0), share, int(again)}
