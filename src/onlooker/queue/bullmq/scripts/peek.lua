-- ARGV: lane, limit. Name and `ol` of the oldest unfinished messages, in order.
local k, limit = P .. ARGV[1] .. ':', tonumber(ARGV[2])
local found = {}
local function add(ids, from, to, step)
  for i = from, to, step do
    local job = call('HMGET', k .. ids[i], 'name', 'ol', 'ol_seq')
    found[#found + 1] = { tonumber(job[3] or 2 ^ 53), #found, { job[1] or '', job[2] or '' } }
  end
end
for _, list in ipairs({ 'active', 'wait', 'paused' }) do
  local ids = call('LRANGE', k .. list, list == 'active' and 0 or -limit, -1)
  add(ids, #ids, 1, -1)
end
for _, set in ipairs({ 'delayed', 'prioritized' }) do
  local ids = call('ZRANGE', k .. set, 0, -1)
  add(ids, 1, #ids, 1)
end
table.sort(found, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
local told = {}
for i = 1, math.min(limit, #found) do told[i] = found[i][3] end
return told
