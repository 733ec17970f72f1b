#!lua flags=no-writes,allow-oom
-- Find pending deliveries of removed referrals in one lane, a piece of it at a time.
-- KEYS[1] head. ARGV: 1 key prefix, 2 connection, 3 cursor ('0' to begin), 4 about how many to look at.
-- A frozen delivery begins with a line of JSON: `["delivery id","referral id",revision,`.
-- Reply: OK, cursor ('0' at the end), then per delivery found: offset, frozen delivery, tries.
local p = ARGV[1]
local found = redis.call('HSCAN', p .. 'lane:' .. ARGV[2] .. ':body', ARGV[3], 'COUNT', ARGV[4])
local reply = {'OK', found[1]}
for i = 1, #found[2], 2 do
  local id, revision = string.match(found[2][i + 1], '^%["[^"]*","([^"\\]*)",(%d+)')
  if not id then
    -- JSON escapes something in it.
    local line = cjson.decode(string.match(found[2][i + 1], '^[^\n]*'))
    id, revision = line[2], line[3]
  end
  -- What takes a delivery back has a negative offset, and stays.
  local mark = string.sub(found[2][i], 1, 1) ~= '-' and redis.call('HGET', p .. 'removed', id)
  if mark then
    local kind, upto = string.match(mark, '^(%a) (%d+)')
    if kind == 'E' or tonumber(revision) <= tonumber(upto) then
      reply[#reply + 1] = found[2][i]
      reply[#reply + 1] = found[2][i + 1]
      reply[#reply + 1] = redis.call('HGET', p .. 'lane:' .. ARGV[2] .. ':tries', found[2][i]) or ''
    end
  end
end
return reply
