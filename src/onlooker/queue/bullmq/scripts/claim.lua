-- ARGV: retention, how many claims are confirmed, for each token, lane, id, nonce, then what a claim is given.
-- Returns for each confirmed 1 or 0, or an error, then what a claim does.
local retention, confirmed, at = tonumber(ARGV[1]), {}, 3
for i = 1, tonumber(ARGV[2]) do
  confirmed[i] = try(finish, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], '', retention)
  at = at + 4
end
local found = claim(at)
return done({ confirmed, found[1], found[2] })
