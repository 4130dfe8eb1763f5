-- What few calls need: a table of functions, made once in a call.
local made
function seldom()
  if made then return made end

  local function split(member)
    local at = string.find(member, ':', 1, true)
    return string.sub(member, 1, at - 1), string.sub(member, at + 1)
  end

  local function is_paused(k) return call('HEXISTS', k .. 'meta', 'paused') == 1 end

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

  local function unfinished(k)
    return call('LLEN', k .. 'wait') + call('LLEN', k .. 'paused') + call('LLEN', k .. 'active')
      + call('ZCARD', k .. 'delayed') + call('ZCARD', k .. 'prioritized')
  end

  -- Count a session's lane anew and make it ready where it may be: after others than us have changed it.
  local function settle(q, k)
    local count = unfinished(k)
    if count == 0 then return forget(q, k) end
    -- Of a lane that was known others may have removed what says that nobody else serves it.
    if not open_lane(q, k) then call('HSET', k .. 'meta', 'concurrency', 0) end
    local active = call('LINDEX', k .. 'active', 0)
    if not active and not is_paused(k) then return refresh(q, k, true) end
    call('ZREM', P .. 'ready', q)
    if not active or not call('ZSCORE', P .. 'leases', q .. ':' .. active) then
      call('ZADD', P .. 'checks', now + CHECK_AGAIN_MS, q)
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

  -- See to a lane that others than us may have changed; it is none of those to be checked, or a shared one.
  local function check(q)
    local k, again = P .. q .. ':', now + CHECK_SHARED_MS
    local keys = call('EXISTS', k .. 'wait', k .. 'paused', k .. 'active', k .. 'delayed', k .. 'prioritized')
    if keys == 0 and not exclusive(q) then return call('ZADD', P .. 'checks', again, q) end
    if not is_paused(k) and call('LLEN', k .. 'wait') == 0 and call('EXISTS', k .. 'paused') == 1 then
      call('RENAME', k .. 'paused', k .. 'wait')
    end
    return_stalled(q, k)
    if exclusive(q) then return settle(q, k) end
    again = math.min(promote(q, k) or again, again)
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
    -- Of a queue without work one command tells that there is neither.
    if call('EXISTS', P .. 'leases', P .. 'due') > 0 then
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
    end
    each(P .. 'checks', check)
    return soonest and soonest - now
  end

  made = {
    split = split,
    is_paused = is_paused,
    waiting_list = waiting_list,
    put_in_place = put_in_place,
    delay_until = delay_until,
    undelay = undelay,
    oldest_delayed = oldest_delayed,
    unfinished = unfinished,
    settle = settle,
    put_back = put_back,
    unclaim = unclaim,
    check = check,
    look = look,
  }
  return made
end
