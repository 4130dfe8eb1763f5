-- ARGV: token, lane, id, nonce, retention of the claim that is confirmed, then what a claim is given.
local confirmed = finish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], '', tonumber(ARGV[5]))
local found = claim(6)
return done({ confirmed, found[1], found[2] })
