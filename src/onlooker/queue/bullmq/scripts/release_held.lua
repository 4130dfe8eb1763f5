-- ARGV: nonce, then what holders' names or tokens begin with. Releases what they hold; how many.
return done(once(ARGV[1], function()
  local count = 0
  for _, member in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    local q, id = seldom().split(member)
    local k = P .. q .. ':'
    local holder, lock = call('HGET', k .. id, 'pb') or '', call('GET', k .. id .. ':lock') or ''
    for i = 2, #ARGV do
      if holder == ARGV[i] or string.sub(lock, 1, #ARGV[i]) == ARGV[i] then
        if seldom().unclaim(q, k, id) then count = count + 1 end
        break
      end
    end
  end
  return count
end))
