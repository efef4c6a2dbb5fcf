-- Puts entries of the registry wherever they are later than what stands.
--
-- KEYS  1  hash    the entries: name -> version (41 digits) and, unless removed, a value
--       2  zset    when they changed: name -> sequence number
--       3  zset    those that end: name -> when they may be dropped, ms since 1970
--       4  hash    about all of it: epoch, sequence, floor
-- ARGV  1  how long an entry is kept once it has ended, in ms
--       2  how many that have ended are kept at the most
--       3  "1": put only what stands already; anything else: put all
--       and three for each entry: its name; version and value; "always", "removed", or the
--       time at which it ends in ms since 1970
--
-- Answers with one text for each entry:
--       "+" and the version that stood before, if any: it was put
--       "="                                          : it stands already
--       "-" and version and value                    : this is later, and stands
--       "?"                                          : ARGV[3] is "1" and nothing stands
--
-- Versions are compared as text: digits of fixed width, which every locale has in order. The cost
-- grows with the entries of the call, never with those there are.

local entries, log, ends, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local keep, most, only_known = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first = tonumber(redis.call('HGET', state, 'sequence') or '0')
local sequence = first
local answers = {}

for i = 4, #ARGV, 3 do
  local name, text, lasting = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local version = string.sub(text, 1, 41)
  local stood = redis.call('HGET', entries, name)
  local old = stood and string.sub(stood, 1, 41) or ''
  local answer
  if not stood and only_known then
    answer = '?'
  elseif old == version then
    answer = '='
  elseif old > version then
    answer = '-' .. stood
  else
    answer = '+' .. old
    sequence = sequence + 1
    redis.call('HSET', entries, name, text)
    redis.call('ZADD', log, sequence, name)
    if lasting == 'always' then
      redis.call('ZREM', ends, name)
    else
      local at = lasting == 'removed' and now or tonumber(lasting)
      redis.call('ZADD', ends, string.format('%.0f', at + keep), name)
    end
  end
  answers[#answers + 1] = answer
end

-- What ended long ago goes, a few at a time, and the oldest before that when there are too many.
local last = now
if redis.call('ZCARD', ends) > most then
  last = now + keep
end
local due = redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.0f', last), 'LIMIT', 0, 100)
local floor = tonumber(redis.call('HGET', state, 'floor') or '0')
for _, name in ipairs(due) do
  floor = math.max(floor, tonumber(redis.call('ZSCORE', log, name) or '0'))
  redis.call('HDEL', entries, name)
  redis.call('ZREM', log, name)
  redis.call('ZREM', ends, name)
end

if sequence > first then
  redis.call('HSET', state, 'sequence', string.format('%.0f', sequence))
end
if #due > 0 then
  redis.call('HSET', state, 'floor', string.format('%.0f', floor))
end
return answers
