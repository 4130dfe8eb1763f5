-- How a claim ends: by its token alone, and again by the same call alone.
local function ended_by(k, id, token, nonce)
  local ended = token .. '|' .. nonce
  return call('HGET', k .. id, 'ol_end') == ended or string.match(call('GET', k .. id .. ':done') or '', '|(.*)') == ended
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
  newly_ended = newly_ended + 1
  if not refresh(q, k, true) then forget(q, k) end
end

-- Confirm or, with a reason, dead-letter. For the retention the id is refused: by the job's hash, of a confirmed message of
-- a session by what is left of it.
local function finish(token, q, id, nonce, reason, retention)
  local k = P .. q .. ':'
  local job, ended, failed, is_session = k .. id, token .. '|' .. nonce, reason ~= '', exclusive(q)
  local leaves_tombstone = is_session and not failed
  local note = leaves_tombstone and call('HGET', job, 'ol')
  if not take_from(q, k, id, token, leaves_tombstone) then return ended_by(k, id, token, nonce) and 1 or 0 end
  if leaves_tombstone then
    -- What refuses the id and answers both calls again.
    call('SET', job .. ':done', (string.match(note or '', '.-|') or '|') .. ended, 'PX', retention)
  else
    call('HSET', job, 'finishedOn', now, 'ol_end', ended, failed and 'failedReason' or 'returnvalue',
      failed and string.sub(reason, 2) or 'null')
    call('HINCRBY', job, 'atm', 1)
    call('PEXPIRE', job, retention)
  end
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
