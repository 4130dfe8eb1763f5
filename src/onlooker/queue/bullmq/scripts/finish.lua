-- ARGV: token, lane, id, nonce, reason (empty: confirmed; else a dash and the reason), retention. 1 or 0.
return done(finish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])))
