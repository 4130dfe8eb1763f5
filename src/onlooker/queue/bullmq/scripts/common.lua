-- What every script begins with: what most calls need. A function costs more to make than to run, and each call makes
-- its script's anew; what few calls need is made when it is asked for, by `seldom`.
-- KEYS[1] is PREFIX:ready; all other keys are made from that prefix.
--
-- Keys of the whole queue:
--   ready   zset: lanes that may be served now, by the place of their oldest waiting message
--   busy    set: session lanes with unfinished messages
--   leases  zset: LANE:ID of each claim of ours, by the end of its lease
--   due     zset: LANE:ID of delayed messages of session lanes, by the time from which they may be served
--   checks  zset: lanes to be looked at, by when: shared ones again and again, others that could not be served
--   dead    zset: LANE:ID of dead letters of session lanes, by when; kinds  set: the shared lanes
--   wake    zset: the marker that one waiting process takes; waited  zset: lanes that somebody waits for alone
--   seq     the last place given; ended  how many places are of no unfinished message of a session
--   epoch   changes when everything was lost; fence.HOLDER, did.NONCE  for retries
-- Keys of a lane are BullMQ's: PREFIX:LANE:wait, active, delayed, failed, completed, meta, marker, events, ID, ID:lock.
-- Ours is ID:done, of a confirmed message of a session: the nonces of its enqueue and its end, for the retention.
-- Of a job's fields, those that begin with ol are ours: place, how it was ended, and in `ol` the nonce of the enqueue,
-- flags and tool, a bar between them: a hash's fields cost more than what is in them.
local call = redis.call
local P = string.sub(KEYS[1], 1, -6)
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local CHECK_SHARED_MS = 30000
local CHECK_AGAIN_MS = 2000
local PORTION = 200
local SCORE = 4096 -- BullMQ keeps delayed jobs by milliseconds times this

local function exclusive(q) return string.sub(q, 1, 8) == 'session.' end

local function event(q, k, ...)
  if not exclusive(q) then call('XADD', k .. 'events', 'MAXLEN', '~', 10000, '*', 'event', ...) end
end

-- A session's lane has something unfinished. Whether that was not known.
local function open_lane(q, k)
  if call('SADD', P .. 'busy', q) == 0 then return false end
  call('HSET', k .. 'meta', 'concurrency', 0)
  return true
end

-- By how much this script changes `ended`.
local newly_ended = 0

-- A job that BullMQ's own tools added gets its place when it is first met, and is counted from then on.
local function place_of(k, id)
  local place = call('HGET', k .. id, 'ol_seq')
  if place then return tonumber(place) end
  place = call('INCR', P .. 'seq')
  local q = string.sub(k, #P + 1, -2)
  if exclusive(q) then open_lane(q, k) else newly_ended = newly_ended + 1 end
  if call('EXISTS', k .. id) == 1 then call('HSET', k .. id, 'ol_seq', place) end
  return place
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

local seldom -- in seldom.lua

-- A session's lane has nothing unfinished.
local function forget(q, k)
  call('SREM', P .. 'busy', q)
  call('ZREM', P .. 'ready', q)
  call('HDEL', k .. 'meta', 'concurrency')
end

-- A claim that confirms a message first may be handed its lane: with no other ready it is the oldest, and need not be put
-- among those only to be taken from them. How many others were ready is kept for who asks later.
local hand = { may = false, on = nil, others_ready = 0 }

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
  local place
  if call('ZCARD', k .. 'delayed') > 0 then
    place = id and place_of(k, id)
    local other, its, at = seldom().oldest_delayed(k)
    if not id or its < place then
      if at > now then
        call('ZADD', P .. 'due', at, q .. ':' .. other)
        call('ZREM', P .. 'ready', q)
        return true
      end
      seldom().undelay(q, k, other)
      seldom().put_in_place(k, other)
      id, place = other, its
    end
  end
  if not id then
    call('ZREM', P .. 'ready', q)
    return call('EXISTS', k .. 'paused') == 1
  end
  if hand.may then
    hand.others_ready = call('ZCARD', P .. 'ready')
    if hand.others_ready == 0 then
      hand.on = q
      return true
    end
  end
  call('ZADD', P .. 'ready', place or place_of(k, id), q)
  mark(q, k)
  return true
end

-- Do one of the things that a script was asked for. What goes wrong with it is told in its place, and to nobody else.
local function try(act, ...)
  local is_done, told = pcall(act, ...)
  if is_done or type(told) == 'table' then return told end
  return { err = told }
end

-- What a script returns, once what it has ended is counted and the marker set for what it has made ready.
local function done(told)
  if newly_ended ~= 0 then call('INCRBY', P .. 'ended', newly_ended) end
  if is_news then call('ZADD', P .. 'wake', 0, '0') end
  return told
end
