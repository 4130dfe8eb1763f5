-- How a claim ends: by its token alone, and again by the same call alone.
local function ended_by(k, id, token, nonce)
  return call('HGET', k .. id, 'ol_end') == token .. '|' .. nonce
end

-- Take the message out of its holder's hands where the token is right. Deleting comes first: that is never refused,
-- and whatever follows it in a script is not refused either, however full the store is.
local function take_from(q, k, id, token)
  if token == '' or call('GET', k .. id .. ':lock') ~= token then return false end
  call('DEL', k .. id .. ':lock')
  call('ZREM', P .. 'leases', q .. ':' .. id)
  return call('LREM', k .. 'active', -1, id) == 1
end

-- A message of a session's lane is finished.
local function one_less(q, k)
  local left = tonumber(call('ZINCRBY', P .. 'lanes', -1, q))
  if left >= 0 then call('DECR', P .. 'open') end
  local has_more = refresh(q, k, true)
  if left == 0 and not has_more then
    seldom().forget(q, k)
  elseif left < 1 or not has_more then
    if left < 0 then call('ZREM', P .. 'lanes', q) end
    seldom().settle(q, k)
  end
end

-- Confirm or, with a reason, dead-letter. The job's hash stays for the retention and keeps its id from being reused.
local function finish(token, q, id, nonce, reason, retention)
  local k = P .. q .. ':'
  if not take_from(q, k, id, token) then return ended_by(k, id, token, nonce) and 1 or 0 end
  local job, state = k .. id, reason == '' and 'completed' or 'failed'
  call('HSET', job, 'finishedOn', now, 'ol_end', token .. '|' .. nonce)
  call('PEXPIRE', job, retention)
  if state == 'failed' then
    call('HINCRBY', job, 'atm', 1)
    call('HSET', job, 'failedReason', string.sub(reason, 2))
  elseif not exclusive(q) then
    call('HINCRBY', job, 'atm', 1)
    call('HSET', job, 'returnvalue', 'null')
  end
  if exclusive(q) then
    if state == 'failed' then
      call('ZADD', k .. 'failed', now, id)
      call('PEXPIRE', k .. 'failed', retention)
      call('ZADD', P .. 'dead', now, q .. ':' .. id)
    else
      call('HDEL', job, 'data', 'opts', 'pb', 'processedOn', 'timestamp', 'delay', 'priority', 'ol_tool')
    end
    one_less(q, k)
  else
    call('ZADD', k .. state, now, id)
    call('ZREMRANGEBYSCORE', k .. state, 0, now - retention)
    event(q, k, state, 'jobId', id, state == 'failed' and 'failedReason' or 'returnvalue',
      state == 'failed' and string.sub(reason, 2) or 'null', 'prev', 'active')
    refresh(q, k)
  end
  return 1
end
