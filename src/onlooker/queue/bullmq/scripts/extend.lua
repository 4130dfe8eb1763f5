-- ARGV: token, lane, id, lease. 1 or 0.
local lock = P .. ARGV[2] .. ':' .. ARGV[3] .. ':lock'
if ARGV[1] == '' or call('GET', lock) ~= ARGV[1] then return 0 end
call('PEXPIRE', lock, ARGV[4])
call('ZADD', P .. 'leases', now + tonumber(ARGV[4]), ARGV[2] .. ':' .. ARGV[3])
return 1
