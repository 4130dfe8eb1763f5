-- ARGV: nonce, lane. Drops what waits and what is claimed; how many.
local q = ARGV[2]
local k = P .. q .. ':'
local function drop(id)
  call('DEL', k .. id, k .. id .. ':lock', k .. id .. ':logs')
  call('ZREM', P .. 'leases', q .. ':' .. id)
  call('ZREM', P .. 'due', q .. ':' .. id)
end
return done(once(ARGV[1], function()
  local count = 0
  for _, list in ipairs({ 'wait', 'active', 'paused' }) do
    for _, id in ipairs(call('LRANGE', k .. list, 0, -1)) do
      drop(id)
      count = count + 1
    end
    call('DEL', k .. list)
  end
  for _, set in ipairs({ 'delayed', 'prioritized' }) do
    for _, id in ipairs(call('ZRANGE', k .. set, 0, -1)) do
      drop(id)
      count = count + 1
    end
    call('DEL', k .. set)
  end
  call('ZREM', P .. 'ready', q)
  if exclusive(q) then
    newly_ended = newly_ended + count
    seldom().settle(q, k)
  end
  return count
end))
