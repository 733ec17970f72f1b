#!lua flags=allow-oom
-- End the lease early, so that the next owner need not wait for it. The barrier stays.
-- KEYS[1] head. ARGV: epoch. Reply: OK | FENCED.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return {'FENCED'} end
redis.call('HSET', KEYS[1], 'lease', '0')
return {'OK'}
