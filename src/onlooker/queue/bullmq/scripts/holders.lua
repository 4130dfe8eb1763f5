-- Who holds claims.
local seen, found = {}, {}
for _, member in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
  local q, id = seldom().split(member)
  local holder = call('HGET', P .. q .. ':' .. id, 'pb')
  if holder and not seen[holder] then
    seen[holder] = true
    found[#found + 1] = holder
  end
end
return found
