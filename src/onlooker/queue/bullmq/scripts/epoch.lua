-- ARGV: a new epoch, for a store that has none. The epoch.
call('SET', P .. 'epoch', ARGV[1], 'NX')
return call('GET', P .. 'epoch')
