-- ARGV: holder, number of its connection, a new epoch, how many shared lanes are to exist, they, then the tokens that the
-- holder knows of, or what they begin with. What else is claimed in its name is released: nobody has it. The epoch.
local fence = P .. 'fence.' .. ARGV[1]
-- The first write is one that a full store does not refuse: who is connected can make room.
call('DEL', fence)
call('SET', P .. 'epoch', ARGV[3], 'NX')
call('SET', fence, ARGV[2], 'PX', 600000)
local first_token = 5 + tonumber(ARGV[4])
for i = 5, first_token - 1 do
  call('SADD', P .. 'kinds', ARGV[i])
  call('HSETNX', P .. ARGV[i] .. ':meta', 'opts.maxLenEvents', 10000)
  call('ZADD', P .. 'checks', 'NX', now, ARGV[i])
end
local known = {}
for i = first_token, #ARGV do known[ARGV[i]] = true end
for _, member in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
  local q, id = seldom().split(member)
  local k = P .. q .. ':'
  if call('HGET', k .. id, 'pb') == ARGV[1] then
    local token = call('GET', k .. id .. ':lock') or ''
    if not known[token] and not known[string.match(token, '^[^.]*')] then seldom().unclaim(q, k, id) end
  end
end
return done(call('GET', P .. 'epoch'))
