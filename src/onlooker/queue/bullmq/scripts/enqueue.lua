-- ARGV: retention, then for each message: lane, id, name, data, opts, delay, replace, and what `ol` holds.
-- Returns for each 1 when it was put by this call (or by a lost one with the same nonce), else 0, or an error.
local STRIDE = 8

-- Enqueue an id that is known. 1 or 0 as above; nil: it is finished and was dropped, the message is to be put.
local function meet_known(q, k, id, due, ours, replaces)
  local rare, job = seldom(), k .. id
  local known, ending = call('HMGET', job, 'name', 'ol', 'finishedOn'), call('GET', job .. ':done')
  local nonce = string.match(ours, '.-|')
  if nonce == string.match(ending or '', '.-|') or nonce == string.match(known[2] or '', '.-|') then return 1 end
  if not known[1] and not ending then return nil end -- what others left behind

  -- Bring the due time of a delayed message forward, never back.
  local function pull_one(its, at)
    if due <= now then
      rare.undelay(q, k, its)
      rare.put_in_place(k, its)
    elseif due < at then
      rare.delay_until(q, k, its, due)
    end
  end

  -- The head of a session's lane, if it is delayed, comes forward too; a lane that lost its token gets it back.
  local function pull_head()
    if not exclusive(q) or call('LLEN', k .. 'active') > 0 then return end
    if call('ZCARD', k .. 'delayed') > 0 then
      local head, place, at = rare.oldest_delayed(k)
      local waiting = call('LINDEX', k .. 'wait', -1)
      if not waiting or place < place_of(k, waiting) then pull_one(head, at) end
    end
    if not call('ZSCORE', P .. 'ready', q) then refresh(q, k) end
  end

  local function is_listed()
    for _, list in ipairs({ 'wait', 'active', 'paused' }) do
      if call('LPOS', k .. list, id, 'RANK', -1) then return true end
    end
    return call('ZSCORE', k .. 'prioritized', id)
  end

  if ending or known[3] then
    if not replaces and (ending or now - tonumber(known[3]) < tonumber(ARGV[1])) then return 0 end
    pull_head()
    call('DEL', job, job .. ':done', job .. ':logs')
    call('ZREM', k .. 'failed', id)
    if exclusive(q) then call('ZREM', P .. 'dead', q .. ':' .. id) else call('ZREM', k .. 'completed', id) end
    return nil
  end
  if call('ZSCORE', P .. 'leases', q .. ':' .. id) then return 0 end
  local score = call('ZSCORE', k .. 'delayed', id)
  if score then
    pull_one(id, math.floor(tonumber(score) / SCORE))
  elseif not is_listed() then
    -- It had been lost from its lane, which makes it new.
    call('LPUSH', rare.waiting_list(k), id)
    if exclusive(q) then rare.settle(q, k) else refresh(q, k) end
    return 1
  elseif call('EXISTS', k .. id .. ':lock') == 1 then
    return 0
  end
  if exclusive(q) then pull_head() else refresh(q, k) end
  return 0
end

-- Give a message to those who wait in its lane; the number that wait then. While an older BullMQ has paused the lane it
-- has no list of those who wait but one of paused jobs, which gets this one.
local function push(k, id)
  local length = call('LPUSH', k .. 'wait', id)
  if length > 1 or call('EXISTS', k .. 'paused') == 0 then return length end
  call('RPOPLPUSH', k .. 'wait', k .. 'paused')
  return call('LLEN', k .. 'paused')
end

local last_place

local function enqueue(at)
  local q, id, name, ours = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 7]
  local delay, is_session = tonumber(ARGV[at + 5]), exclusive(q)
  local k = P .. q .. ':'
  local job = k .. id
  if call('EXISTS', job, job .. ':done') > 0 then
    local told = meet_known(q, k, id, now + delay, ours, ARGV[at + 6] ~= '0')
    if told then return told end
  end
  -- The first that needs a place takes those of all that follow it too.
  local place = last_place and last_place + 1
  if not place then
    local left = (#ARGV - at + 1) / STRIDE
    place = left == 1 and call('INCR', P .. 'seq') or call('INCRBY', P .. 'seq', left) - left + 1
    newly_ended = newly_ended + left
  end
  last_place = place
  call('HSET', job, 'name', name, 'data', ARGV[at + 3], 'opts', ARGV[at + 4], 'timestamp', now, 'delay', delay,
    'priority', '0', 'ol_seq', place, 'ol', ours)
  if is_session then
    newly_ended = newly_ended - 1
  else
    event(q, k, 'added', 'jobId', id, 'name', name)
    if call('SADD', P .. 'kinds', q) == 1 then call('ZADD', P .. 'checks', 'NX', now + CHECK_SHARED_MS, q) end
  end
  if delay > 0 then
    if is_session then open_lane(q, k) end
    seldom().delay_until(q, k, id, now + delay)
    return 1
  end
  local length = push(k, id)
  if not is_session then
    event(q, k, 'waiting', 'jobId', id)
    if length == 1 then call('ZADD', P .. 'ready', place, q) end
    mark(q, k)
  elseif length == 1 then
    local is_new = open_lane(q, k)
    if call('LLEN', k .. 'active') == 0 and call('ZCARD', k .. 'delayed') == 0 then
      call('ZADD', P .. 'ready', place, q)
      mark(q, k)
    elseif is_new then
      seldom().settle(q, k) -- others than us use this lane
    end
  end
  return 1
end

local told = {}
for at = 2, #ARGV, STRIDE do told[#told + 1] = try(enqueue, at) end
return done(told)
