#!lua flags=allow-oom
-- Put a mail's file by. A full Redis takes it: once its window has left, more room is free than before.
-- KEYS[1] file. ARGV: content, seconds after which it is forgotten unless it is told of.
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return {'OK'}
