-- Tells what changed in the registry since a sequence number, in the order of changes.
--
-- KEYS  1  hash    the entries: name -> version (41 digits) and, unless removed, a value
--       2  zset    when they changed: name -> sequence number
--       3  zset    those that end: name -> when they may be dropped, ms since 1970
--       4  hash    about all of it: epoch, sequence, floor
-- ARGV  1  the sequence number
--       2  how many changes to tell at the most, up to 1 000
--       3  a random name for this copy, should it have none
--
-- Answers with a list of texts: the copy's name (epoch), which is another one after the copy was
-- lost; the name of the server's process, which is another one after a restart or a failover;
-- the last sequence number there is; the highest one of an entry that was dropped (floor); and
-- three for each change: its sequence number, name, and version and value.
--
-- A server that evicts keys can lose a part: then the rest is thrown away, for the gateways have
-- all of it, and share it again when they see another epoch. The cost grows with what is told.

local entries, log, ends, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HLEN', entries) ~= redis.call('ZCARD', log) then
  redis.call('UNLINK', entries, log, ends, state)
end
local epoch = redis.call('HGET', state, 'epoch')
if not epoch then
  epoch = ARGV[3]
  local last = redis.call('ZRANGE', log, -1, -1, 'WITHSCORES')
  redis.call('HSET', state, 'epoch', epoch, 'sequence', last[2] or '0')
end
local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%x+)') or ''
local sequence = redis.call('HGET', state, 'sequence') or '0'
local floor = redis.call('HGET', state, 'floor') or '0'

local answer = { epoch, run, sequence, floor }
local found = redis.call(
  'ZRANGEBYSCORE', log, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
if #found == 0 then
  return answer
end
local names = {}
for i = 1, #found, 2 do
  names[#names + 1] = found[i]
end
for i, text in ipairs(redis.call('HMGET', entries, unpack(names))) do
  answer[#answer + 1] = found[2 * i]
  answer[#answer + 1] = names[i]
  answer[#answer + 1] = text or ''
end
return answer
