-- Enters a gateway in the roster, removes those that are silent, and counts those that live.
--
-- KEYS[1]  the roster: a sorted set of gateways by the time of their last beat, in microseconds
-- ARGV[1]  the gateway
-- ARGV[2]  the silence after which one is dead, in microseconds
-- ARGV[3]  how long the set outlives the last beat, in milliseconds
-- Returns how many live, this one included.
--
-- The clock is that of Redis. Where it was set back, beats lie ahead of it; they are brought to the
-- present, or they would outlive their gateways. Microseconds since 1970 are whole in a double.
local roster = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local function whole(number) return string.format('%.0f', number) end

for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', roster, '(' .. whole(now), '+inf')) do
    redis.call('ZADD', roster, whole(now), ahead)
end
redis.call('ZADD', roster, whole(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', roster, '-inf', '(' .. whole(now - tonumber(ARGV[2])))
redis.call('PEXPIRE', roster, ARGV[3])
return redis.call('ZCARD', roster)
