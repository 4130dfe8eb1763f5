-- ARGV: holder, number of its connection, a new epoch, then the shared lanes that are to exist. The epoch.
call('SET', P .. 'epoch', ARGV[3], 'NX')
call('SET', P .. 'fence.' .. ARGV[1], ARGV[2], 'PX', 600000)
for i = 4, #ARGV do
  call('SADD', P .. 'kinds', ARGV[i])
  call('HSETNX', P .. ARGV[i] .. ':meta', 'opts.maxLenEvents', 10000)
  call('ZADD', P .. 'checks', 'NX', now, ARGV[i])
end
return call('GET', P .. 'epoch')
