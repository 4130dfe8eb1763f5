-- What every script begins with. KEYS[1] is PREFIX:ready; all other keys are made from that prefix.
--
-- Keys of the whole queue:
--   ready   zset: lanes that may be served now, by the place of their oldest waiting message
--   lanes   zset: session lanes with unfinished messages, and how many; open: the sum of these
--   leases  zset: LANE:ID of each claim of ours, by the end of its lease
--   due     zset: LANE:ID of delayed messages of session lanes, by the time from which they may be served
--   checks  zset: lanes to be looked at, by when: shared ones again and again, others that could not be served
--   dead    zset: LANE:ID of dead letters of session lanes, by when; kinds  set: the shared lanes
--   wake    zset: the marker that one waiting process takes; waited  zset: lanes that somebody waits for alone
--   seq     the last place given; epoch  changes when everything was lost; fence.HOLDER, did.NONCE  for retries
-- Keys of a lane are BullMQ's: PREFIX:LANE:wait, active, delayed, failed, completed, meta, marker, events, ID, ID:lock.
-- Of a job's fields, those that begin with ol_ are ours: place, nonce of the enqueue, tool, flags, how it was ended.
local call = redis.call
local P = string.sub(KEYS[1], 1, -6)
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local CHECK_SHARED_MS = 30000
local CHECK_AGAIN_MS = 2000
local PORTION = 200
local SCORE = 4096 -- BullMQ keeps delayed jobs by milliseconds times this

local function exclusive(q) return string.sub(q, 1, 8) == 'session.' end

local function split(member)
  local at = string.find(member, ':', 1, true)
  return string.sub(member, 1, at - 1), string.sub(member, at + 1)
end

local function is_paused(k) return call('HEXISTS', k .. 'meta', 'paused') == 1 end

local function event(q, k, ...)
  if not exclusive(q) then call('XADD', k .. 'events', 'MAXLEN', '~', 10000, '*', 'event', ...) end
end

-- A job that BullMQ's own tools added gets its place when it is first met.
local function place_of(k, id)
  local place = call('HGET', k .. id, 'ol_seq')
  if place then return tonumber(place) end
  place = call('INCR', P .. 'seq')
  if call('EXISTS', k .. id) == 1 then call('HSET', k .. id, 'ol_seq', place) end
  return place
end

-- While an older BullMQ has paused a lane, what waits is in its list of paused jobs.
local function waiting_list(k)
  return call('EXISTS', k .. 'paused') == 1 and k .. 'paused' or k .. 'wait'
end

-- Lists have the youngest on the left. Nearly always the place is at one of the ends.
local function put_in_place(k, id)
  local list, place = waiting_list(k), place_of(k, id)
  local length = call('LLEN', list)
  if length == 0 or place_of(k, call('LINDEX', list, -1)) > place then return call('RPUSH', list, id) end
  if place_of(k, call('LINDEX', list, 0)) < place then return call('LPUSH', list, id) end
  for at = 2, length do
    local other = call('LINDEX', list, -at)
    if place_of(k, other) > place then return call('LINSERT', list, 'AFTER', other, id) end
  end
end

-- Wake one process that waits for anything, at the end of the script, and one that waits for this lane alone.
local is_news = false
local function mark(q, k)
  is_news = true
  if not exclusive(q) then
    call('ZADD', k .. 'marker', 0, '0')
  else
    local until_ms = call('ZSCORE', P .. 'waited', q)
    if until_ms and tonumber(until_ms) > now then
      call('ZADD', k .. 'marker', 0, '0')
      call('PEXPIRE', k .. 'marker', 60000)
    end
  end
end

-- Somebody has to look when this comes due; who looks often enough needs no marker.
local function mark_due(at) call('ZADD', P .. 'wake', 'LT', at, '1') end

local function delay_until(q, k, id, at)
  local score = string.format('%.0f', at * SCORE)
  call('ZADD', k .. 'delayed', score, id)
  call('HSET', k .. id, 'delay', at - now)
  if exclusive(q) then
    call('ZADD', P .. 'due', at, q .. ':' .. id)
  else
    call('ZADD', P .. 'checks', 'LT', at, q)
  end
  event(q, k, 'delayed', 'jobId', id, 'delay', string.format('%.0f', at))
  mark_due(at)
end

local function undelay(q, k, id)
  call('ZREM', k .. 'delayed', id)
  if exclusive(q) then call('ZREM', P .. 'due', q .. ':' .. id) end
  call('HSET', k .. id, 'delay', 0)
end

-- The oldest delayed message of a lane: id, place, due time.
local function oldest_delayed(k)
  local found = call('ZRANGE', k .. 'delayed', 0, -1, 'WITHSCORES')
  local id, place, at
  for i = 1, #found, 2 do
    local its = place_of(k, found[i])
    if not place or its < place then id, place, at = found[i], its, math.floor(tonumber(found[i + 1]) / SCORE) end
  end
  return id, place, at
end

-- Make a lane ready where its next message may be served. False when it has no unfinished one but the active.
-- `is_idle`: a session's lane that is known to have none in hand.
local function refresh(q, k, is_idle)
  local id = call('LINDEX', k .. 'wait', -1)
  if not exclusive(q) then
    if not id then id = call('ZRANGE', k .. 'prioritized', 0, 0)[1] end
    if not id then
      call('ZREM', P .. 'ready', q)
      return false
    end
    call('ZADD', P .. 'ready', place_of(k, id), q)
    mark(q, k)
    return true
  end
  if not is_idle and call('LLEN', k .. 'active') > 0 then return true end
  local place = id and place_of(k, id)
  if call('ZCARD', k .. 'delayed') > 0 then
    local other, its, at = oldest_delayed(k)
    if not id or its < place then
      if at > now then
        call('ZREM', P .. 'ready', q)
        return true
      end
      undelay(q, k, other)
      put_in_place(k, other)
      id, place = other, its
    end
  end
  if not id then
    call('ZREM', P .. 'ready', q)
    return call('EXISTS', k .. 'paused') == 1
  end
  call('ZADD', P .. 'ready', place, q)
  mark(q, k)
  return true
end

local function forget(q, k)
  call('ZREM', P .. 'lanes', q)
  call('ZREM', P .. 'ready', q)
  call('HDEL', k .. 'meta', 'concurrency')
end

local function unfinished(k)
  return call('LLEN', k .. 'wait') + call('LLEN', k .. 'paused') + call('LLEN', k .. 'active')
    + call('ZCARD', k .. 'delayed') + call('ZCARD', k .. 'prioritized')
end

-- Count a session's lane anew and make it ready where it may be: after others than us have changed it.
local function settle(q, k)
  local count, known = unfinished(k), tonumber(call('ZSCORE', P .. 'lanes', q) or 0)
  if count ~= known then call('INCRBY', P .. 'open', count - known) end
  if count == 0 then return forget(q, k) end
  call('ZADD', P .. 'lanes', count, q)
  call('HSET', k .. 'meta', 'concurrency', 0)
  local active = call('LINDEX', k .. 'active', 0)
  if not active and not is_paused(k) then return refresh(q, k, true) end
  call('ZREM', P .. 'ready', q)
  if not active or not call('ZSCORE', P .. 'leases', q .. ':' .. active) then
    call('ZADD', P .. 'checks', now + CHECK_AGAIN_MS, q)
  end
end

-- A message of a session's lane is finished.
local function one_less(q, k)
  local left = tonumber(call('ZINCRBY', P .. 'lanes', -1, q))
  if left >= 0 then call('DECR', P .. 'open') end
  local has_more = refresh(q, k, true)
  if left == 0 and not has_more then
    forget(q, k)
  elseif left < 1 or not has_more then
    if left < 0 then call('ZREM', P .. 'lanes', q) end
    settle(q, k)
  end
end

-- What was active waits again, at its place.
local function put_back(q, k, id)
  if call('EXISTS', k .. id) == 0 then
    if exclusive(q) then settle(q, k) end
    return
  end
  put_in_place(k, id)
  event(q, k, 'waiting', 'jobId', id, 'prev', 'active')
  refresh(q, k)
end

-- Take a claim away from its holder, whoever it is. Whether there was one.
local function unclaim(q, k, id)
  call('DEL', k .. id .. ':lock')
  call('ZREM', P .. 'leases', q .. ':' .. id)
  if call('LREM', k .. 'active', -1, id) == 0 then return false end
  put_back(q, k, id)
  return true
end

-- What a worker that is none of ours left active: its lock is over.
local function return_stalled(q, k)
  for _, id in ipairs(call('LRANGE', k .. 'active', 0, PORTION)) do
    if not call('ZSCORE', P .. 'leases', q .. ':' .. id) and call('EXISTS', k .. id .. ':lock') == 0 then
      call('LREM', k .. 'active', -1, id)
      call('HINCRBY', k .. id, 'stc', 1)
      event(q, k, 'stalled', 'jobId', id)
      put_back(q, k, id)
    end
  end
end

local function promote(q, k)
  local due = call('ZRANGEBYSCORE', k .. 'delayed', 0, string.format('%.0f', (now + 1) * SCORE - 1), 'LIMIT', 0, PORTION)
  for _, id in ipairs(due) do
    undelay(q, k, id)
    put_in_place(k, id)
    event(q, k, 'waiting', 'jobId', id, 'prev', 'delayed')
  end
  local next_due = call('ZRANGE', k .. 'delayed', 0, 0, 'WITHSCORES')
  return next_due[2] and math.floor(tonumber(next_due[2]) / SCORE)
end

-- See to a lane that others than us may have changed.
local function check(q)
  local k = P .. q .. ':'
  call('ZREM', P .. 'checks', q)
  if not is_paused(k) and call('LLEN', k .. 'wait') == 0 and call('EXISTS', k .. 'paused') == 1 then
    call('RENAME', k .. 'paused', k .. 'wait')
  end
  return_stalled(q, k)
  if exclusive(q) then return settle(q, k) end
  local again = math.min(promote(q, k) or now + CHECK_SHARED_MS, now + CHECK_SHARED_MS)
  call('SADD', P .. 'kinds', q)
  call('ZADD', P .. 'checks', math.max(again, now + 1), q)
  if not is_paused(k) then refresh(q, k) end
end

-- Put back what leases have ended of, make ready what has come due. Milliseconds until there is more to do, or nil.
local function look()
  local soonest
  local function each(key, act)
    for _ = 1, PORTION do
      local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
      if not first[1] then return end
      local at = tonumber(first[2])
      if at > now then
        soonest = math.min(soonest or at, at)
        return
      end
      call('ZREM', key, first[1])
      act(first[1])
    end
    soonest = now
  end
  each(P .. 'leases', function(member)
    local q, id = split(member)
    local k = P .. q .. ':'
    local lock = call('GET', k .. id .. ':lock')
    if lock and string.sub(lock, 1, 3) ~= 'ol_' then return end
    unclaim(q, k, id)
  end)
  each(P .. 'due', function(member)
    local q, id = split(member)
    local k = P .. q .. ':'
    if call('ZREM', k .. 'delayed', id) == 1 then
      call('HSET', k .. id, 'delay', 0)
      put_in_place(k, id)
    end
    refresh(q, k)
  end)
  each(P .. 'checks', check)
  return soonest and soonest - now
end

-- What a script returns, once the marker is set for what it has made ready.
local function done(told)
  if is_news then call('ZADD', P .. 'wake', 0, '0') end
  return told
end
