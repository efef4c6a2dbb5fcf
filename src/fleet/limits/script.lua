-- Charges one request to all its shared limits, or to none, and settles with its gateway what that
-- holds on lease.
--
-- KEYS[i]  the bucket of one limit and one holder, a hash:
--            state            "a b c", by algorithm:
--                               bucket, leaky  a b: theoretical arrival time, seconds and nanoseconds
--                               fixed          a: the window's number, b: tokens taken in it
--                               sliding        a: the window's number, b: taken in it, c: in the one before
--            seen             "s ns", the latest time the bucket was changed at
--            lease:<gateway>  "account sequence outstanding spent debt ends_s ends_ns"
-- ARGV[1]  the gateway
-- ARGV[2..] eighteen for each key, in the order of KEYS:
--   1 algorithm    bucket | leaky | fixed | sliding
--   2,3 interval   time for one token, seconds and nanoseconds; of a window its length in
--                  seconds (0: a calendar month) and 0
--   4 burst        tokens of a full bucket or of a window
--   5 cost         tokens to take now
--   6,7 max_delay  of a leaky bucket, seconds and nanoseconds
--   8 want         tokens to lease besides, as far as they are there; at most 1 000 000
--   9 length       of the lease, milliseconds
--   10 account     the gateway's account with this bucket; 0: it has none, 8 to 15 are not looked at
--   11 sequence    of the call; one that is not above the last is not carried out again
--   12 kept        leased tokens that the gateway goes on holding
--   13 spent       leased tokens it has spent in all
--   14,15 debt     tokens it let pass without asking, in all: as last acknowledged, and now
--   16 back        tokens charged earlier to be given back
--   17,18          the time of that charge, as answered then
--
-- Answer: now (seconds, nanoseconds), then eight for each key:
--   1 verdict      1 the cost was taken, 0 not (nothing was, of any key), -1 it never can be,
--                  -2 this call came too late or twice and did nothing
--   2,3 wait       until the cost would be there; of an admitted leaky bucket how long to hold back
--   4,5 left       until the bucket is full, or its window over
--   6 used         tokens taken from the window; of a bucket 0
--   7 granted      tokens leased
--   8 outstanding  tokens that all gateways hold on lease
--
-- Numbers here are doubles, exact up to 2^53. Times are therefore pairs of seconds and nanoseconds,
-- products are made in steps of 20 bits, and what must be rounded is rounded against the client.

local GIGA = 1000000000
local STEP = 1048576
local FIELDS = 18
-- Records of gateways that have held nothing for so long are thrown away.
local FORGET_S = 60

local function normal(s, ns)
  local carry = math.floor(ns / GIGA)
  return s + carry, ns - carry * GIGA
end

local function add(s, ns, s2, ns2) return normal(s + s2, ns + ns2) end
local function sub(s, ns, s2, ns2) return normal(s - s2, ns - ns2) end
local function is_less(s, ns, s2, ns2) return s < s2 or (s == s2 and ns < ns2) end

local function later(s, ns, s2, ns2)
  if is_less(s, ns, s2, ns2) then return s2, ns2 end
  return s, ns
end

-- n times a duration, exactly.
local function times(n, s, ns)
  local low = n % STEP
  local rest = (n - low) / STEP
  local middle = rest % STEP
  local high = (rest - middle) / STEP
  local rs, rns = normal(high * s, high * ns)
  rs, rns = normal(rs * STEP, rns * STEP)
  rs, rns = add(rs, rns, normal(middle * s, middle * ns))
  rs, rns = normal(rs * STEP, rns * STEP)
  return add(rs, rns, normal(low * s, low * ns))
end

-- How often one duration fits into another, at most `most` times.
local function fits(s, ns, s2, ns2, most)
  if s < 0 then return 0 end
  local n = math.min(most, math.floor((s + ns / GIGA) / (s2 + ns2 / GIGA)) + 1)
  while n > 0 do
    local ts, tns = times(n, s2, ns2)
    if not is_less(s, ns, ts, tns) then return n end
    n = n - 1
  end
  return 0
end

local function text(...)
  local words = {}
  for i = 1, select('#', ...) do words[i] = string.format('%d', (select(i, ...))) end
  return table.concat(words, ' ')
end

local function numbers(words)
  local list = {}
  for word in string.gmatch(words, '%S+') do list[#list + 1] = tonumber(word) end
  return list
end

-- The calendar month at a time of Unix: its number, and when it begins and ends. Years are taken
-- to begin in March, so that the day that some years have more comes last; they repeat after 400.
local function month_at(s)
  local day = math.floor(s / 86400)
  local shifted = day + 719468
  local era = math.floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  local first = math.floor((153 * month + 2) / 5)
  local length = math.floor((153 * (month + 1) + 2) / 5) - first
  if month == 11 then
    local is_leap = (year + 1) % 4 == 0 and ((year + 1) % 100 ~= 0 or (year + 1) % 400 == 0)
    length = is_leap and 29 or 28
  end
  local begins = day - (of_year - first)
  return (era * 400 + year) * 12 + month, begins * 86400, (begins + length) * 86400
end

local clock = redis.call('TIME')
local now_s, now_ns = tonumber(clock[1]), tonumber(clock[2]) * 1000
local gateway = ARGV[1]

-- The window that is open at a time: its number, and when it begins and ends.
local function window_at(bucket, s)
  if bucket.interval_s == 0 then return month_at(s) end
  local number = math.floor(s / bucket.interval_s)
  return number, number * bucket.interval_s, (number + 1) * bucket.interval_s
end

local function is_window(bucket) return bucket.algorithm == 'fixed' or bucket.algorithm == 'sliding' end

-- Tokens out on lease; of those that ended, only those that ended after a time.
local function outstanding(bucket, since_s, since_ns)
  local sum = 0
  for _, lease in pairs(bucket.leases) do
    if is_less(since_s, since_ns, lease.ends_s, lease.ends_ns) then sum = sum + lease.out end
  end
  return sum
end

-- A bucket fills only up to what is out on lease.
local function hold_down(bucket, at_s, at_ns, out)
  if is_window(bucket) then
    bucket.b = math.max(bucket.b, out)
  else
    local s, ns = add(at_s, at_ns, times(out, bucket.interval_s, bucket.interval_ns))
    bucket.a, bucket.b = later(bucket.a, bucket.b, s, ns)
  end
end

local function give_back(bucket, tokens)
  if is_window(bucket) then
    bucket.b = math.max(0, bucket.b - tokens)
  else
    bucket.a, bucket.b = sub(bucket.a, bucket.b, times(tokens, bucket.interval_s, bucket.interval_ns))
  end
end

local function read(key, first)
  local function arg(i) return tonumber(ARGV[first + i]) end
  local bucket = {
    key = key, algorithm = ARGV[first + 1],
    interval_s = arg(2), interval_ns = arg(3), burst = arg(4), cost = arg(5),
    delay_s = arg(6), delay_ns = arg(7), want = arg(8), length_ms = arg(9),
    account = arg(10), sequence = arg(11), kept = arg(12), spent = arg(13),
    debt_base = arg(14), debt = arg(15), back = arg(16), back_s = arg(17), back_ns = arg(18),
    a = 0, b = 0, c = 0, leases = {}, gone = {}, is_changed = false, is_late = false, granted = 0,
  }
  local seen
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local name, values = fields[i], numbers(fields[i + 1])
    if name == 'state' then
      bucket.a, bucket.b, bucket.c = values[1], values[2], values[3]
    elseif name == 'seen' then
      seen = values
    else
      bucket.leases[string.sub(name, 7)] = {
        account = values[1], sequence = values[2], out = values[3], spent = values[4],
        debt = values[5], ends_s = values[6], ends_ns = values[7],
      }
    end
  end
  -- A clock that was set back has stood still since the last change: all times go back with it.
  -- That is written even by a call that changes nothing else, or it would stand still for ever.
  if seen and is_less(now_s, now_ns, seen[1], seen[2]) then
    bucket.is_changed = true
    local s, ns = sub(seen[1], seen[2], now_s, now_ns)
    if not is_window(bucket) then bucket.a, bucket.b = sub(bucket.a, bucket.b, s, ns) end
    for _, lease in pairs(bucket.leases) do
      lease.ends_s, lease.ends_ns = sub(lease.ends_s, lease.ends_ns, s, ns)
    end
  end
  return bucket
end

-- Brings a bucket to the present: windows that are over, leases that have ended.
local function advance(bucket)
  if is_window(bucket) then
    local number, begins_s, ends_s = window_at(bucket, now_s)
    bucket.left_s, bucket.left_ns = sub(ends_s, 0, now_s, now_ns)
    if number ~= bucket.a then
      -- What is still out may be spent in this window; so it counts here, not in the last.
      local out = outstanding(bucket, begins_s, 0)
      if number < bucket.a then
        -- The clock was set back across a border: what was taken counts once more.
        bucket.b = math.max(bucket.b, out)
      else
        bucket.c = number == bucket.a + 1 and math.max(0, bucket.b - out) or 0
        bucket.b = out
      end
      bucket.a = number
    end
  else
    -- In the order in which they end: each holds the bucket down until then.
    local ended = {}
    for _, lease in pairs(bucket.leases) do
      if lease.out > 0 and not is_less(now_s, now_ns, lease.ends_s, lease.ends_ns) then
        ended[#ended + 1] = lease
      end
    end
    table.sort(ended, function(x, y) return is_less(x.ends_s, x.ends_ns, y.ends_s, y.ends_ns) end)
    local out = outstanding(bucket, -1, 0)
    for _, lease in ipairs(ended) do
      hold_down(bucket, lease.ends_s, lease.ends_ns, out)
      out = out - lease.out
    end
  end
  for name, lease in pairs(bucket.leases) do
    if not is_less(now_s, now_ns, lease.ends_s, lease.ends_ns) then
      -- Whatever it held was spent or is lost.
      lease.out = 0
      if lease.ends_s + FORGET_S < now_s and name ~= gateway then bucket.gone[#bucket.gone + 1] = name end
    end
  end
  for _, name in ipairs(bucket.gone) do bucket.leases[name] = nil end
end

-- What the gateway reports of its account: spent, kept, owed.
local function settle(bucket)
  if bucket.account == 0 then
    hold_down(bucket, now_s, now_ns, outstanding(bucket, now_s, now_ns))
    return
  end
  local lease = bucket.leases[gateway]
  if lease and bucket.sequence <= lease.sequence then
    bucket.is_late = true
    return
  end
  if not lease or lease.account ~= bucket.account then
    -- What another account of this gateway had out stays charged.
    lease = { account = bucket.account, out = 0, spent = bucket.spent, debt = bucket.debt_base,
      ends_s = now_s, ends_ns = now_ns }
  end
  hold_down(bucket, now_s, now_ns, outstanding(bucket, now_s, now_ns))
  local returned = lease.out - (bucket.spent - lease.spent) - bucket.kept
  returned = math.max(0, math.min(returned, lease.out))
  local owed = math.max(0, bucket.debt - math.max(lease.debt, bucket.debt_base))
  lease.out, lease.spent, lease.sequence = bucket.kept, bucket.spent, bucket.sequence
  lease.debt = math.max(bucket.debt, lease.debt)
  lease.ends_s, lease.ends_ns = add(now_s, now_ns, normal(0, bucket.length_ms * 1000000))
  bucket.leases[gateway], bucket.lease, bucket.is_changed = lease, lease, true
  give_back(bucket, returned)
  local out = outstanding(bucket, now_s, now_ns)
  hold_down(bucket, now_s, now_ns, out)
  if owed > 0 then
    owed = math.min(owed, bucket.burst)
    if is_window(bucket) then
      bucket.b = math.min(bucket.b + owed, math.max(bucket.b, bucket.burst))
    else
      local s, ns = later(bucket.a, bucket.b, now_s, now_ns)
      bucket.a, bucket.b = add(s, ns, times(owed, bucket.interval_s, bucket.interval_ns))
    end
  end
end

-- A charge of before is taken back, as far as nobody can get more for it: what a bucket earned
-- meanwhile it may have earned because of the charge.
local function refund(bucket)
  if bucket.back == 0 or bucket.algorithm == 'leaky' then return end
  bucket.is_changed = true
  if is_window(bucket) then
    local charged = window_at(bucket, bucket.back_s)
    if charged == bucket.a then
      bucket.b = math.max(0, bucket.b - bucket.back)
    elseif charged == bucket.a - 1 then
      bucket.c = math.max(0, bucket.c - bucket.back)
    end
  else
    local s, ns = times(bucket.back, bucket.interval_s, bucket.interval_ns)
    s, ns = sub(s, ns, later(0, 0, sub(now_s, now_ns, bucket.back_s, bucket.back_ns)))
    if s >= 0 then bucket.a, bucket.b = sub(bucket.a, bucket.b, s, ns) end
  end
  hold_down(bucket, now_s, now_ns, outstanding(bucket, now_s, now_ns))
end

-- What of the window before still counts, rounded up.
local function weighted(bucket)
  if bucket.algorithm ~= 'sliding' or bucket.c == 0 then return 0 end
  local s, ns = times(bucket.c, bucket.left_s, bucket.left_ns)
  local whole = math.floor(s / bucket.interval_s)
  if s > whole * bucket.interval_s or ns > 0 then whole = whole + 1 end
  return whole
end

-- How much of a window passes until of `taken` tokens no more than `room` count.
local function wanes_in(bucket, taken, room)
  taken = math.max(taken, 1)
  local s, ns = times(math.min(room, taken), bucket.interval_s, 0)
  local whole = math.floor(s / taken)
  local part = math.floor(((s - whole * taken) * GIGA + ns) / taken)
  return sub(bucket.interval_s, 0, whole, part)
end

-- Whether a cost is there, else how long it takes; of a leaky bucket also how long to hold back.
local function look(bucket)
  if bucket.is_late then return -2, 0, 0 end
  local cost = bucket.cost
  if cost > bucket.burst then return -1, 0, 0 end
  if cost == 0 then return 1, 0, 0 end
  if bucket.algorithm == 'fixed' then
    if bucket.b + cost <= bucket.burst then return 1, 0, 0 end
    return 0, bucket.left_s, bucket.left_ns
  end
  if bucket.algorithm == 'sliding' then
    if bucket.b + weighted(bucket) + cost <= bucket.burst then return 1, 0, 0 end
    local passed_s, passed_ns = sub(bucket.interval_s, 0, bucket.left_s, bucket.left_ns)
    local room = bucket.burst - bucket.b - cost
    if room >= 0 then
      local s, ns = wanes_in(bucket, bucket.c, room)
      return 0, sub(s, ns, passed_s, passed_ns)
    end
    local s, ns = wanes_in(bucket, bucket.b, bucket.burst - cost)
    return 0, add(bucket.left_s, bucket.left_ns, s, ns)
  end
  local tat_s, tat_ns = later(bucket.a, bucket.b, now_s, now_ns)
  local ahead_s, ahead_ns = sub(tat_s, tat_ns, now_s, now_ns)
  local wait_s, wait_ns = add(ahead_s, ahead_ns, times(cost, bucket.interval_s, bucket.interval_ns))
  wait_s, wait_ns = sub(wait_s, wait_ns, times(bucket.burst, bucket.interval_s, bucket.interval_ns))
  if bucket.algorithm == 'leaky' then
    local long_s, long_ns = sub(ahead_s, ahead_ns, bucket.delay_s, bucket.delay_ns)
    wait_s, wait_ns = later(wait_s, wait_ns, long_s, long_ns)
  end
  if wait_s > 0 or (wait_s == 0 and wait_ns > 0) then return 0, wait_s, wait_ns end
  if bucket.algorithm == 'leaky' then return 1, ahead_s, ahead_ns end
  return 1, 0, 0
end

local function take(bucket, tokens)
  if tokens == 0 then return end
  bucket.is_changed = true
  if is_window(bucket) then
    bucket.b = bucket.b + tokens
  else
    local s, ns = later(bucket.a, bucket.b, now_s, now_ns)
    bucket.a, bucket.b = add(s, ns, times(tokens, bucket.interval_s, bucket.interval_ns))
  end
end

local function grant(bucket)
  if not bucket.lease or bucket.want == 0 then return end
  local there
  if is_window(bucket) then
    there = math.max(0, bucket.burst - bucket.b - weighted(bucket))
  else
    local s, ns = add(now_s, now_ns, times(bucket.burst, bucket.interval_s, bucket.interval_ns))
    s, ns = sub(s, ns, later(bucket.a, bucket.b, now_s, now_ns))
    there = fits(s, ns, bucket.interval_s, bucket.interval_ns, bucket.want)
  end
  bucket.granted = math.min(bucket.want, there)
  take(bucket, bucket.granted)
  bucket.lease.out = bucket.lease.out + bucket.granted
end

-- Until the bucket says nothing any more.
local function left(bucket)
  if bucket.algorithm == 'sliding' then
    local s, ns = bucket.left_s, bucket.left_ns
    if bucket.b > 0 then s = s + bucket.interval_s end
    return s, ns
  end
  if bucket.algorithm == 'fixed' then return bucket.left_s, bucket.left_ns end
  return later(0, 0, sub(bucket.a, bucket.b, now_s, now_ns))
end

local function write(bucket)
  if not bucket.is_changed then return end
  if #bucket.gone > 0 then
    for i, name in ipairs(bucket.gone) do bucket.gone[i] = 'lease:' .. name end
    redis.call('HDEL', bucket.key, unpack(bucket.gone))
  end
  redis.call('HSET', bucket.key, 'state', text(bucket.a, bucket.b, bucket.c), 'seen', text(now_s, now_ns))
  if bucket.lease then
    local lease = bucket.lease
    redis.call('HSET', bucket.key, 'lease:' .. gateway, text(lease.account, lease.sequence, lease.out,
      lease.spent, lease.debt, lease.ends_s, lease.ends_ns))
  end
  local s, ns = left(bucket)
  for _, lease in pairs(bucket.leases) do
    s, ns = later(s, ns, sub(lease.ends_s, lease.ends_ns, now_s, now_ns))
  end
  redis.call('PEXPIRE', bucket.key, text(s * 1000 + math.ceil(ns / 1000000) + 1000))
end

local buckets, verdicts, passes = {}, {}, true
for i = 1, #KEYS do
  local bucket = read(KEYS[i], 1 + (i - 1) * FIELDS)
  advance(bucket)
  settle(bucket)
  if not bucket.is_late then
    -- A time further ahead than the bucket can push it was left by a larger limit or another clock.
    if not is_window(bucket) then
      local s, ns = add(now_s, now_ns, times(bucket.burst, bucket.interval_s, bucket.interval_ns))
      if is_less(s, ns, bucket.a, bucket.b) then bucket.a, bucket.b = s, ns end
    end
    refund(bucket)
  end
  local verdict, wait_s, wait_ns = look(bucket)
  buckets[i], verdicts[i] = bucket, { verdict, wait_s, wait_ns }
  passes = passes and verdict == 1
end

local answer = { now_s, now_ns }
for i, bucket in ipairs(buckets) do
  if passes then
    take(bucket, bucket.cost)
    grant(bucket)
  end
  if not bucket.is_late then write(bucket) end
  local verdict = verdicts[i]
  local left_s, left_ns = left(bucket)
  local used = is_window(bucket) and bucket.b + weighted(bucket) or 0
  for _, number in ipairs({ verdict[1], verdict[2], verdict[3], left_s, left_ns, used, bucket.granted,
    outstanding(bucket, now_s, now_ns) }) do
    answer[#answer + 1] = number
  end
end
return answer
