-- ARGV: retention. Counts by state: of the sessions together, then of each shared lane; lanes; age of the oldest.
local COUNTED_LANES = 200
local since = now - tonumber(ARGV[1])
local claimed, oldest = 0, nil
-- The first write, which a full store does not refuse: counting may add a key.
call('ZREMRANGEBYSCORE', P .. 'dead', 0, since)
local function meet(q, id)
  local at = id and call('HGET', P .. q .. ':' .. id, 'timestamp')
  if at then oldest = math.min(oldest or now, tonumber(at)) end
end
for _, member in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
  local q, id = seldom().split(member)
  if exclusive(q) then claimed = claimed + 1 end
  meet(q, id)
end
local first = call('ZRANGE', P .. 'ready', 0, 0)[1]
if first then meet(first, call('LINDEX', P .. first .. ':wait', -1)) end
for _, member in ipairs(call('ZRANGE', P .. 'due', 0, PORTION)) do meet(seldom().split(member)) end
local delayed = call('ZCOUNT', P .. 'due', '(' .. now, '+inf')
-- Few lanes are counted, for others than us may have changed them; of many the places given and not ended have to do.
local lanes, given = call('SCARD', P .. 'busy'), tonumber(call('GET', P .. 'seq') or 0)
local open = given - tonumber(call('GET', P .. 'ended') or 0)
if lanes <= COUNTED_LANES then
  local counted = claimed + call('ZCARD', P .. 'due')
  for _, q in ipairs(call('SMEMBERS', P .. 'busy')) do
    local k = P .. q .. ':'
    local waiting = call('LLEN', k .. 'wait') + call('LLEN', k .. 'paused')
    counted = counted + waiting
    if waiting == 0 and seldom().unfinished(k) == 0 then
      forget(q, k)
      lanes = lanes - 1
    end
  end
  if counted ~= open then call('SET', P .. 'ended', given - counted) end
  open = counted
end
local told = { { '', math.max(open - claimed - delayed, 0), delayed, claimed, call('ZCARD', P .. 'dead') } }
for _, q in ipairs(call('SMEMBERS', P .. 'kinds')) do
  local k = P .. q .. ':'
  local later = call('ZCOUNT', k .. 'delayed', string.format('%.0f', (now + 1) * SCORE), '+inf')
  local waiting = call('LLEN', k .. 'wait') + call('LLEN', k .. 'paused') + call('ZCARD', k .. 'prioritized')
    + call('ZCARD', k .. 'delayed') - later
  local active = call('LLEN', k .. 'active')
  if waiting + later + active > 0 then
    lanes = lanes + 1
    meet(q, call('LINDEX', k .. 'wait', -1))
    meet(q, call('ZRANGE', k .. 'delayed', 0, 0)[1])
  end
  told[#told + 1] = { q, waiting, later, active, call('ZCOUNT', k .. 'failed', '(' .. since, '+inf') }
end
return { told, lanes, oldest and now - oldest or -1 }
