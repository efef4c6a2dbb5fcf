-- Puts entries of the registry wherever they are later than what stands.
--
-- KEYS  1  hash    the entries: name -> version (41 digits) and, unless removed, a value
--       2  zset    when they changed: name -> sequence number
--       3  zset    those that end: name -> when they may be dropped, ms since 1970
--       4  hash    about all of it: epoch, sequence, floor
-- ARGV  1  how long an entry is kept once it has ended, in ms
--       2  how many that have ended are kept at the most
--       3  "1": put only what stands already; anything else: put all
--       and three for each of at most 1 000 entries with different names: its name; version and
--       value; "always", "removed", or the time at which it ends in ms since 1970
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
local sequence = tonumber(redis.call('HGET', state, 'sequence') or '0')
local answers = {}

local names = {}
for i = 4, #ARGV, 3 do
  names[#names + 1] = ARGV[i]
end
local standing = redis.call('HMGET', entries, unpack(names))
local puts, order, ending, lasting_ones = {}, {}, {}, {}
for i, name in ipairs(names) do
  local text, lasting = ARGV[3 * i + 2], ARGV[3 * i + 3]
  local version = string.sub(text, 1, 41)
  local stood = standing[i]
  local old = stood and string.sub(stood, 1, 41) or ''
  if not stood and only_known then
    answers[i] = '?'
  elseif old == version then
    answers[i] = '='
  elseif old > version then
    answers[i] = '-' .. stood
  else
    answers[i] = '+' .. old
    sequence = sequence + 1
    puts[#puts + 1], puts[#puts + 2] = name, text
    order[#order + 1], order[#order + 2] = sequence, name
    if lasting == 'always' then
      lasting_ones[#lasting_ones + 1] = name
    else
      local at = lasting == 'removed' and now or tonumber(lasting)
      ending[#ending + 1], ending[#ending + 2] = string.format('%.0f', at + keep), name
    end
  end
end

-- The first of these is what fails when the memory is full, and then nothing was written.
if #puts > 0 then
  redis.call('HSET', entries, unpack(puts))
  redis.call('ZADD', log, unpack(order))
  redis.call('HSET', state, 'sequence', string.format('%.0f', sequence))
end
if #ending > 0 then
  redis.call('ZADD', ends, unpack(ending))
end
if #lasting_ones > 0 then
  redis.call('ZREM', ends, unpack(lasting_ones))
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

if #due > 0 then
  redis.call('HSET', state, 'floor', string.format('%.0f', floor))
end
return answers
