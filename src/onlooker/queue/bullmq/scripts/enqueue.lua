-- ARGV: retention, then for each message: lane, id, name, data, opts, tool, flags, delay, replace, nonce.
-- Returns for each 1 when it was put by this call (or by a lost one with the same nonce), else 0.
local STRIDE = 10

-- Bring the due time of a delayed message forward, never back.
local function pull_one(q, k, id, at, due)
  if due <= now then
    undelay(q, k, id)
    put_in_place(k, id)
  elseif due < at then
    delay_until(q, k, id, due)
  end
end

-- The head of a session's lane, if it is delayed, comes forward too; a lane that lost its token gets it back.
local function pull_head(q, k, due)
  if not exclusive(q) or call('LLEN', k .. 'active') > 0 then return end
  if call('ZCARD', k .. 'delayed') > 0 then
    local head, place, at = oldest_delayed(k)
    local waiting = call('LINDEX', k .. 'wait', -1)
    if not waiting or place < place_of(k, waiting) then pull_one(q, k, head, at, due) end
  end
  if not call('ZSCORE', P .. 'ready', q) then refresh(q, k) end
end

local function is_listed(k, id)
  for _, list in ipairs({ 'wait', 'active', 'paused' }) do
    if call('LPOS', k .. list, id, 'RANK', -1) then return true end
  end
  return call('ZSCORE', k .. 'prioritized', id)
end

-- Enqueue an id that is known and unfinished. 1 when it had been lost from its lane, which makes it new.
local function ring(q, k, id, due)
  if call('ZSCORE', P .. 'leases', q .. ':' .. id) then return 0 end
  local score = call('ZSCORE', k .. 'delayed', id)
  if score then
    pull_one(q, k, id, math.floor(tonumber(score) / SCORE), due)
  elseif not is_listed(k, id) then
    call('LPUSH', waiting_list(k), id)
    if exclusive(q) then settle(q, k) else refresh(q, k) end
    return 1
  elseif call('EXISTS', k .. id .. ':lock') == 1 then
    return 0
  end
  if exclusive(q) then pull_head(q, k, due) else refresh(q, k) end
  return 0
end

local function drop_finished(q, k, id)
  call('DEL', k .. id, k .. id .. ':logs')
  call('ZREM', k .. 'failed', id)
  if exclusive(q) then call('ZREM', P .. 'dead', q .. ':' .. id) else call('ZREM', k .. 'completed', id) end
end

local function enqueue(at)
  local q, id, name, data, opts = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local tool, flags, delay, nonce = ARGV[at + 5], ARGV[at + 6], tonumber(ARGV[at + 7]), ARGV[at + 9]
  local k = P .. q .. ':'
  local due = now + delay
  local known = call('HMGET', k .. id, 'name', 'ol_nonce', 'finishedOn')
  if known[1] then
    if known[2] == nonce then return 1 end
    if not known[3] then return ring(q, k, id, due) end
    if ARGV[at + 8] == '0' and now - tonumber(known[3]) < tonumber(ARGV[1]) then return 0 end
    pull_head(q, k, due)
    drop_finished(q, k, id)
  end
  local place = call('INCR', P .. 'seq')
  call('HSET', k .. id, 'name', name, 'data', data, 'opts', opts, 'timestamp', now, 'delay', delay, 'priority', 0,
    'ol_seq', place, 'ol_nonce', nonce, 'ol_tool', tool, 'ol_flags', flags)
  event(q, k, 'added', 'jobId', id, 'name', name)
  local count
  if exclusive(q) then
    count = tonumber(call('ZINCRBY', P .. 'lanes', 1, q))
    call('INCR', P .. 'open')
    if count == 1 then call('HSET', k .. 'meta', 'concurrency', 0) end
  elseif call('SADD', P .. 'kinds', q) == 1 then
    call('ZADD', P .. 'checks', 'NX', now + CHECK_SHARED_MS, q)
  end
  if delay > 0 then
    delay_until(q, k, id, due)
    return 1
  end
  local length = call('LPUSH', waiting_list(k), id)
  event(q, k, 'waiting', 'jobId', id)
  if (count or length) == 1 then call('ZADD', P .. 'ready', place, q) end
  if not count or count == 1 then
    mark(q, k)
  elseif length == 1 and call('LLEN', k .. 'active') == 0 and call('ZCARD', k .. 'delayed') == 0 then
    settle(q, k) -- others than us have emptied the lane
  end
  return 1
end

local told = {}
for at = 2, #ARGV, STRIDE do told[#told + 1] = enqueue(at) end
return done(told)
