-- How a claim ends: by its token alone, and again by the same call alone.
local function ended_by(k, id, token, nonce)
  return call('HGET', k .. id, 'ol_end') == token .. '|' .. nonce
end

-- Take the message out of its holder's hands where the token is right, and drop its hash with the lock where `drops`.
-- Nothing here is ever refused, and so nothing that follows it in a script is, however full the store is.
local function take_from(q, k, id, token, drops)
  local job = k .. id
  local lock = job .. ':lock'
  if token == '' or call('GET', lock) ~= token then return false end
  call('ZREM', P .. 'leases', q .. ':' .. id)
  local was_active = call('LREM', k .. 'active', -1, id) == 1
  if was_active and drops then call('DEL', lock, job) else call('DEL', lock) end
  return was_active
end

-- A message of a session's lane is finished.
local function one_less(q, k)
  local left = tonumber(call('ZINCRBY', P .. 'lanes', -1, q))
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
  local job, ended, failed, is_session = k .. id, token .. '|' .. nonce, reason ~= '', exclusive(q)
  local leaves_tombstone = is_session and not failed
  local kept = leaves_tombstone and call('HMGET', job, 'name', 'ol')
  if not take_from(q, k, id, token, leaves_tombstone) then return ended_by(k, id, token, nonce) and 1 or 0 end
  if leaves_tombstone then
    -- What refuses the id and answers the call again. It is written anew, for a hash that was large takes more room
    -- than one that was always small.
    if kept[1] then
      local note = kept[2] or ''
      local known_by = string.sub(note, 1, string.find(note, '|', 1, true) or 0)
      call('HSET', job, 'name', kept[1], 'ol', known_by, 'finishedOn', now, 'ol_end', ended)
    else
      call('HSET', job, 'finishedOn', now, 'ol_end', ended)
    end
  else
    call('HSET', job, 'finishedOn', now, 'ol_end', ended, failed and 'failedReason' or 'returnvalue',
      failed and string.sub(reason, 2) or 'null')
    call('HINCRBY', job, 'atm', 1)
  end
  call('PEXPIRE', job, retention)
  if is_session then
    if failed then
      call('ZADD', k .. 'failed', now, id)
      call('PEXPIRE', k .. 'failed', retention)
      call('ZADD', P .. 'dead', now, q .. ':' .. id)
    end
    one_less(q, k)
  else
    local state = failed and 'failed' or 'completed'
    call('ZADD', k .. state, now, id)
    call('ZREMRANGEBYSCORE', k .. state, 0, now - retention)
    event(q, k, state, 'jobId', id, failed and 'failedReason' or 'returnvalue',
      failed and string.sub(reason, 2) or 'null', 'prev', 'active')
    refresh(q, k)
  end
  return 1
end
