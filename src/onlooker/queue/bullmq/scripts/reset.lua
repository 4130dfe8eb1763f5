-- ARGV: nonce, lane. Releases every claim of the lane; how many.
local q = ARGV[2]
local k = P .. q .. ':'
return done(once(ARGV[1], function()
  local ids = call('LRANGE', k .. 'active', 0, -1)
  for _, id in ipairs(ids) do seldom().unclaim(q, k, id) end
  return #ids
end))
