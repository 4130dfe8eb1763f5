-- What is counted is done once: a retry of a call whose answer was lost is told the count again.
local function once(nonce, act)
  local key = P .. 'did.' .. nonce
  local done = call('GET', key)
  if done then return tonumber(done) end
  local count = act()
  if count > 0 then call('SET', key, count, 'PX', 60000) end
  return count
end
