-- ARGV: lane. How many unfinished messages it has.
return seldom().unfinished(P .. ARGV[1] .. ':')
