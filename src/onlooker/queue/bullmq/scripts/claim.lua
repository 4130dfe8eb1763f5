-- ARGV: retention, how many claims are confirmed, for each token, lane, id, nonce, then what a claim is given.
-- Returns for each confirmed 1 or 0, or an error, then what a claim tells.
local retention, at = tonumber(ARGV[1]), 3
-- One message is confirmed, then any lane is claimed, for the first time, with nothing to be looked at before.
hand.may = ARGV[2] == '1' and #ARGV == 15 and ARGV[10] ~= '0' and ARGV[11] == '0' and ARGV[12] == '0'
for i = 1, tonumber(ARGV[2]) do
  answer[i] = try(finish, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], '', retention)
  at = at + 4
end
hand.may = false
claim(at)
return done(answer)
