-- Claims: the oldest of the lanes that are ready, or of the given ones.

-- What is answered, without tables in it, each of which costs Redis some 2 us.
local answer = {}

-- What a holder is told of a claim, of the job's fields in this order.
local TOLD = { 'name', 'data', 'ol', 'ats', 'atm' }
local function tell(q, id, token, job, attempt)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = q, id, job[1], job[2] or ''
  answer[n + 5], answer[n + 6], answer[n + 7] = job[3] or '', attempt, token
end

-- Take the oldest lane, of all or of the given ones, out of those that are ready.
local function next_lane(lanes)
  if not lanes then return call('ZPOPMIN', P .. 'ready')[1] end
  local best, place
  for _, q in ipairs(lanes) do
    local its = tonumber(call('ZSCORE', P .. 'ready', q) or nil)
    if its and (not place or its < place) then best, place = q, its end
  end
  if best then call('ZREM', P .. 'ready', best) end
  return best
end

-- Whether a lane that looks ready may be served; one that may not is looked at again later. `is_idle` as in `refresh`.
local function may_serve(q, k, is_idle)
  if exclusive(q) then
    if (is_idle or call('LLEN', k .. 'active') == 0) and call('HEXISTS', k .. 'meta', 'paused') == 0 then return true end
  else
    local meta = call('HMGET', k .. 'meta', 'paused', 'concurrency')
    local limit = tonumber(meta[2] or nil)
    if not meta[1] and (not limit or call('LLEN', k .. 'active') < limit) then return true end
  end
  call('ZADD', P .. 'checks', 'LT', now + CHECK_AGAIN_MS, q)
  return false
end

local function next_job(q, k)
  local id = call('RPOPLPUSH', k .. 'wait', k .. 'active')
  if id or exclusive(q) then return id end
  id = call('ZPOPMIN', k .. 'prioritized')[1]
  if id then call('LPUSH', k .. 'active', id) end
  return id
end

-- Claim the next message of a lane, which was in `ready` or handed on. False when there is none after all.
local function claim_of(q, token, lease, holder, is_idle)
  local k = P .. q .. ':'
  if not may_serve(q, k, is_idle) then return false end
  local id = next_job(q, k)
  if not id then
    if exclusive(q) then seldom().settle(q, k) end
    return false
  end
  local job = k .. id
  local fields = call('HMGET', job, unpack(TOLD))
  if not fields[1] then
    call('LREM', k .. 'active', -1, id)
    if exclusive(q) then seldom().settle(q, k) else refresh(q, k) end
    return false
  end
  local attempt = tonumber(fields[4] or 0) + 1
  call('SET', job .. ':lock', token, 'PX', lease)
  -- BullMQ's own retry of a finished job leaves it with the time at which it would have been forgotten.
  if fields[5] then call('PERSIST', job) end
  call('HSET', job, 'processedOn', now, 'pb', holder, 'ats', attempt)
  call('ZADD', P .. 'leases', now + lease, q .. ':' .. id)
  event(q, k, 'active', 'jobId', id, 'prev', 'waiting')
  if not exclusive(q) and not refresh(q, k) then call('ZREM', k .. 'marker', '0') end
  tell(q, id, token, fields, attempt)
  return true
end

-- Tell the claims that a call whose answer was lost has made; how many.
local function claimed_by(token)
  local found = {}
  for _, member in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    local q, id = seldom().split(member)
    local k = P .. q .. ':'
    local lock = call('GET', k .. id .. ':lock')
    if lock and string.sub(lock, 1, #token + 1) == token .. '.' then
      found[#found + 1] = { tonumber(string.sub(lock, #token + 2)), q, id, lock }
    end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  for _, its in ipairs(found) do
    local job = call('HMGET', P .. its[2] .. ':' .. its[3], unpack(TOLD))
    tell(its[2], its[3], its[4], job, tonumber(job[4]))
  end
  return #found
end

-- ARGV from `at`: token, lease, holder, count, retry, look, connection, wait, how many lanes (-1: any), the lanes,
-- then the shared lanes whose markers were taken.
-- Tells the claims, then milliseconds until there may be more (-1: nothing is known to come).
local function claim(at)
  local token, lease, holder, count = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3])
  local given, lanes = tonumber(ARGV[at + 8]), nil
  if given >= 0 then
    lanes = {}
    for i = 1, given do lanes[i] = ARGV[at + 8 + i] end
  end
  for i = at + 9 + math.max(given, 0), #ARGV do seldom().check(ARGV[i]) end
  local next_ms
  local claims = ARGV[at + 4] == '1' and claimed_by(token) or 0
  if claims > 0 then
    answer[#answer + 1] = 0
    return
  end
  local looked = ARGV[at + 5] == '1'
  if looked then next_ms = seldom().look() end
  -- A call that its process has given up on, and that arrives late, must not claim anything.
  local fence = count > 0 and call('GET', P .. 'fence.' .. holder)
  local is_current = not fence or tonumber(fence) <= tonumber(ARGV[at + 6])
  local handed = hand.on
  if handed and not is_current then refresh(handed, P .. handed .. ':', true) end
  local taken_out = 0
  while is_current and claims < count do
    local q = handed or next_lane(lanes)
    if q then
      taken_out = taken_out + 1
      if claim_of(q, token .. '.' .. claims, lease, holder, q == handed) then claims = claims + 1 end
      handed = nil
    elseif looked then
      break
    else
      looked, next_ms = true, seldom().look()
    end
  end
  if claims == 0 and (lanes or count == 0) then
    -- It may be the first write, and a full store does not refuse it, nor then the marker below.
    call('ZREMRANGEBYSCORE', P .. 'waited', 0, now)
    if lanes and tonumber(ARGV[at + 7]) > 0 then
      for _, q in ipairs(lanes) do call('ZADD', P .. 'waited', now + tonumber(ARGV[at + 7]), q) end
    end
  end
  -- Whatever this call has made ready, or was woken for, and did not take is for another process.
  is_news = false
  local are_others = hand.others_ready >= math.max(taken_out, 1)
  if (claims > 0 or count == 0 or lanes or not is_current) and (are_others or call('ZCARD', P .. 'ready') > 0) then
    call('ZADD', P .. 'wake', 0, '0')
  end
  answer[#answer + 1] = next_ms or -1
end
