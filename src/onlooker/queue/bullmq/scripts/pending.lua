-- ARGV: lane. How many unfinished messages it has.
return unfinished(P .. ARGV[1] .. ':')
