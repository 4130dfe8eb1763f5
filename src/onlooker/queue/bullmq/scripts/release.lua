-- ARGV: token, lane, id, nonce, delay. 1 or 0.
local token, q, id, nonce, delay = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local k = P .. q .. ':'
if not take_from(q, k, id, token) then return ended_by(k, id, token, nonce) and 1 or 0 end
call('HSET', k .. id, 'ol_end', token .. '|' .. nonce)
if delay > 0 then
  seldom().delay_until(q, k, id, now + delay)
  refresh(q, k)
else
  seldom().put_back(q, k, id)
end
return done(1)
