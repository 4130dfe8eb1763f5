-- ARGV: retention, then for each: token, lane, id, nonce, reason (empty: confirmed; else a dash and the reason).
-- Returns for each 1 or 0, or an error.
local retention, told = tonumber(ARGV[1]), {}
for at = 2, #ARGV, 5 do
  told[#told + 1] = try(finish, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], retention)
end
return done(told)
