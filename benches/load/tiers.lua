-- Mixed tiers at a running gateway: each thread of wrk is one client, the
-- counts are the client's own, and done() holds them against what the tier
-- allows. mixed.sh starts it and hands everything over in the environment,
-- because wrk gives arguments to its threads only, not to setup and done.

local TIERS = {}
for name in os.getenv("LOAD_TIERS"):gmatch("%S+") do
  TIERS[#TIERS + 1] = name
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
  -- Threads are set up one after the other, so each takes the next tier.
  local tier = TIERS[(#threads - 1) % #TIERS + 1]
  thread:set("tier", tier)
  thread:set("client", os.getenv("LOAD_CLIENT_PREFIX") .. tier)
end

function init(args)
  wrk.headers["X-Client-ID"] = client
  admitted, refused, failed = 0, 0, 0
  refused_by = ""
  by_policy = {}
  message = wrk.format("GET")
end

function request()
  return message
end

-- A table filled in a thread does not reach done(), so the policies that
-- refused are kept as text, rewritten only when a new one appears.
local function note_policy(header)
  local policy = header and header:match('"([^"]+)"') or "unnamed"
  if not by_policy[policy] then
    by_policy[policy] = true
    refused_by = refused_by == "" and policy or refused_by .. ", " .. policy
  end
end

function response(status, headers, body)
  if status == 429 then
    refused = refused + 1
    note_policy(headers["RateLimit"] or headers["ratelimit"] or headers["Ratelimit"])
  elseif status < 400 then
    admitted = admitted + 1
  else
    failed = failed + 1
  end
end

local function now()
  local clock = io.popen("date +%s.%N")
  local seconds = tonumber(clock:read("*l"))
  clock:close()
  return seconds
end

-- The numbers of the tier's own limit in the admin API's answer for a client.
local function tier_limit(json)
  for object in json:gmatch("{[^{}]*}") do
    if object:match('"policy"%s*:%s*"tier"') then
      local capacity = object:match('"capacity"%s*:%s*([%d.eE+-]+)')
      local rate = object:match('"refill_rate"%s*:%s*([%d.eE+-]+)')
      return tonumber(capacity), tonumber(rate)
    end
  end
end

function done(summary, latency, requests)
  -- From before the first request was sent until after the last answer came:
  -- longer than the span in which tokens were spent, so that a tier which is
  -- exceeded here was exceeded beyond doubt.
  local span = now() - tonumber(os.getenv("LOAD_START"))
  local cost = tonumber(os.getenv("LOAD_COST"))
  local exceeded, unserved = false, false
  print(string.format("%-12s %8s %8s %10s %10s %10s %7s %10s %8s  %s", "tier", "burst", "rate/s",
    "sent", "admitted", "allowed", "used", "refused", "other", "refused by"))
  for _, thread in ipairs(threads) do
    local tier = thread:get("tier")
    local capacity, rate = tier_limit(os.getenv("LOAD_LIMIT_" .. tier) or "")
    local admitted, refused, failed = thread:get("admitted"), thread:get("refused"), thread:get("failed")
    local allowed = math.floor((capacity + rate * span) / cost)
    print(string.format("%-12s %8g %8g %10d %10d %10d %6.1f%% %10d %8d  %s", tier, capacity, rate,
      admitted + refused + failed, admitted, allowed, 100 * admitted / allowed, refused, failed,
      thread:get("refused_by")))
    exceeded = exceeded or admitted > allowed
    unserved = unserved or failed > 0 or admitted + refused == 0
  end
  print(string.format("allowed = (burst + rate x %.2f s) / cost %g; %d requests, %.0f/s", span, cost,
    summary.requests, summary.requests / (summary.duration / 1e6)))
  local e = summary.errors
  local socket_errors = e.connect + e.read + e.write + e.timeout
  if socket_errors > 0 then
    print(string.format("socket errors: connect %d, read %d, write %d, timeout %d", e.connect, e.read,
      e.write, e.timeout))
  end
  -- wrk always ends with success, so mixed.sh reads the verdict from here.
  if exceeded then
    print("verdict: EXCEEDED, a tier was admitted more than it allows")
  elseif unserved or socket_errors > 0 then
    print("verdict: FAILED, some requests met neither their tier nor a refusal")
  else
    print("verdict: within every tier")
  end
end
