/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lua side. Lua's numbers are doubles: times in microseconds and millionths of a token stay far
 * below 2^53, and where a product does not, the result is rounded down by more than its error.
 */
#include "mcp_rl_script.h"

#define PREAMBLE \
    "local t = redis.call('TIME')\n" \
    "local now = tonumber(t[1]) * 1000000 + tonumber(t[2])\n" \
    "local nowms = math.floor(now / 1000)\n"

#define BUCKET \
    "local function fixed6(v)\n" \
    "  return string.format('%d.%06d', math.floor(v / 1000000), v % 1000000)\n" \
    "end\n" \
    /* What somebody else wrote may be anything; what is no number counts as missing. */ \
    "local function number(s)\n" \
    "  local v = s and tonumber(s)\n" \
    "  if not v or v ~= v or v == math.huge or v == -math.huge then return nil end\n" \
    "  return v\n" \
    "end\n" \
    "local function when(s)\n" \
    "  local sec, frac = string.match(s or '', '^(%d+)%.?(%d*)$')\n" \
    "  if not sec or #sec > 10 then return nil end\n" \
    "  return tonumber(sec) * 1000000 + tonumber(string.sub(frac .. '000000', 1, 6))\n" \
    "end\n" \
    "local function span(micro, n, period)\n" \
    "  if micro <= 0 then return 0 end\n" \
    "  return math.min(1e15, math.ceil((micro + 1) * (period / 1000000) / n) + 1)\n" \
    "end\n" \
    /* Tokens that are lent count as if they were still in the bucket: it is filled up to the rest. */ \
    "local function bucket(key, cost, n, period, cap, want, settle)\n" \
    "  local s\n" \
    "  local lent, gen, until_ = 0, 0, 0\n" \
    "  if cap >= 512 then\n" \
    "    s = redis.call('HMGET', key, 'tokens', 'last_refill', 'lent')\n" \
    "    local a, b, c = string.match(s[3] or '', '^(%d+) (%d+) (%d+)$')\n" \
    "    if a then lent, gen, until_ = tonumber(a), tonumber(b), tonumber(c) end\n" \
    "    if until_ <= now then lent, until_ = 0, 0 end\n" \
    "    until_ = math.min(until_, now + 1000000)\n" \
    "  else\n" \
    "    s = redis.call('HMGET', key, 'tokens', 'last_refill')\n" \
    "  end\n" \
    "  if lent > 0 and settle ~= '' then\n" \
    "    local amount, of = string.match(settle, '^(%d+) (%d+)$')\n" \
    "    if amount and tonumber(of) == gen then lent = math.max(0, lent - tonumber(amount)) end\n" \
    "  end\n" \
    "  local tokens, last = number(s[1]), when(s[2])\n" \
    "  local full = math.max(0, cap - lent) * 1000000\n" \
    "  local fill = span(cap * 1000000, n, period)\n" \
    "  local micro\n" \
    "  if not tokens then\n" \
    "    micro, last = full, now\n" \
    "    if floor > 0 then micro, last = 0, floor end\n" \
    "  else\n" \
    "    micro = math.max(0, math.min(full, math.floor(tokens * 1000000 + 0.5)))\n" \
    "    last = last or now\n" \
    "    if last < floor then micro, last = 0, floor end\n" \
    "  end\n" \
    /* A clock that went back far: what is there stays, and refilling starts anew. */ \
    "  if last - now > fill then last = now end\n" \
    "  local gone = now - last\n" \
    "  if gone >= fill then\n" \
    "    micro = math.max(micro, full)\n" \
    "  elseif gone > 0 then\n" \
    "    local more = gone * n / period * 1000000\n" \
    "    micro = math.max(micro, math.min(full, micro + math.floor(more - more * 1e-12)))\n" \
    "  end\n" \
    "  local need = cost * 1000000\n" \
    "  local ok = cost <= cap and micro >= need\n" \
    "  local wait = 0\n" \
    "  if ok then\n" \
    "    micro = micro - need\n" \
    "  else\n" \
    "    wait = math.max(1, span(math.min(need, cap * 1000000) - micro, n, period))\n" \
    "  end\n" \
    "  if not ok and need > full then wait = math.max(wait, until_ - now) end\n" \
    "  if not ok or micro < want * 4000000 then want = 0 end\n" \
    "  if want > 0 then\n" \
    "    if until_ == 0 then gen, until_ = gen + 1, now + 1000000 end\n" \
    "    micro, lent = micro - want * 1000000, lent + want\n" \
    "  end\n" \
    "  local reset = span(cap * 1000000 - micro, n, period)\n" \
    "  return ok, math.floor(micro / 1000000), wait, span(1000000 - micro, n, period), reset,\n" \
    "    function()\n" \
    "      redis.call('HSET', key, 'tokens', fixed6(micro), 'last_refill',\n" \
    "                 fixed6(math.max(last, now)))\n" \
    "      if want > 0 or settle ~= '' then\n" \
    "        redis.call('HSET', key, 'lent', string.format('%d %d %.0f', lent, gen, until_))\n" \
    "      end\n" \
    "      redis.call('PEXPIRE', key,\n" \
    "                 math.ceil((reset + math.max(0, last - now)) / 1000) + 1000)\n" \
    "    end, nil, want, gen, math.max(0, until_ - now)\n" \
    "end\n"

#define FIXED \
    "local function fixed(key, mode, cost, n, period, block)\n" \
    "  local v = math.floor(number(redis.call('GET', key)) or 0)\n" \
    "  local left = redis.call('PTTL', key) * 1000\n" \
    "  local most = math.max(period, block)\n" \
    "  if v <= 0 then v, left = 0, period end\n" \
    "  if left <= 0 then left = period end\n" \
    "  if left > most then left = most end\n" \
    "  local blocked = v > n\n" \
    "  local ok = mode == 'r' or (not blocked and cost <= n - v)\n" \
    "  local after = v\n" \
    "  local full = blocked\n" \
    "  if not ok and not blocked and block > 0 then full, left, after = true, block, n + 1 end\n" \
    "  if ok and mode ~= 'k' and not blocked then\n" \
    "    after = v + cost\n" \
    "    if mode == 'r' and after >= n and block > 0 then left, after = block, n + 1 end\n" \
    "  end\n" \
    "  local rest = math.max(0, n - after)\n" \
    "  local function store()\n" \
    "    if after ~= v then\n" \
    "      redis.call('SET', key, string.format('%d', after), 'PX', math.max(1, math.ceil(left / 1000)))\n" \
    "    end\n" \
    "  end\n" \
    "  return ok, rest, ok and 0 or left, rest > 0 and 0 or left, left, store, store\n" \
    "end\n"

#define SLIDING \
    "local function sliding(key, cost, n, period, block)\n" \
    "  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - period))\n" \
    "  local stop = redis.call('ZSCORE', key, 'block')\n" \
    "  local keep = math.ceil(math.max(period, block) / 1000) + 1000\n" \
    "  if stop then\n" \
    "    local left = math.max(1, tonumber(stop) + period - now)\n" \
    "    return false, 0, left, left, left\n" \
    "  end\n" \
    "  local count = redis.call('ZCARD', key)\n" \
    "  local function until_free(c)\n" \
    "    local at = count + c - n\n" \
    "    if at <= 0 then return 0 end\n" \
    "    if at > count then return period end\n" \
    "    local row = redis.call('ZRANGE', key, at - 1, at - 1, 'WITHSCORES')\n" \
    "    return math.max(1, tonumber(row[2]) + period - now)\n" \
    "  end\n" \
    "  if count + cost <= n then\n" \
    "    local one = 0\n" \
    "    if count + cost == n then one = count > 0 and until_free(cost + 1) or period end\n" \
    "    return true, n - count - cost, 0, one, period, function()\n" \
    "      for i = 1, cost do\n" \
    "        redis.call('ZADD', key, string.format('%.0f', now), nonce .. '.' .. i)\n" \
    "      end\n" \
    "      redis.call('PEXPIRE', key, keep)\n" \
    "    end\n" \
    "  end\n" \
    "  if block > 0 then\n" \
    "    return false, 0, block, block, block, nil, function()\n" \
    "      redis.call('ZADD', key, string.format('%.0f', now + block - period), 'block')\n" \
    "      redis.call('PEXPIRE', key, keep)\n" \
    "    end\n" \
    "  end\n" \
    "  return false, math.max(0, n - count), until_free(math.min(cost, n)), until_free(1), until_free(n)\n" \
    "end\n"

#define SLOTS \
    "local function slots(key, mode, n, lease, held, members)\n" \
    "  local member\n" \
    "  for name in string.gmatch(members, '%S+') do\n" \
    "    if member then redis.call('ZREM', key, name) else member = name end\n" \
    "  end\n" \
    "  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', nowms))\n" \
    "  local mine = redis.call('ZSCORE', key, member)\n" \
    "  local count = redis.call('ZCARD', key)\n" \
    "  if not mine then\n" \
    "    if mode ~= 'a' and now < grace then return 2, 0, grace - now, grace - now, grace - now end\n" \
    "    count = math.max(count, held)\n" \
    "    if count >= n then\n" \
    "      local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')\n" \
    "      local wait = lease\n" \
    "      if first[2] then wait = math.max(1000, (tonumber(first[2]) - nowms) * 1000) end\n" \
    "      return false, 0, wait, wait, wait\n" \
    "    end\n" \
    "    count = count + 1\n" \
    "  end\n" \
    "  local rest = math.max(0, n - count)\n" \
    "  return true, rest, 0, rest > 0 and 0 or lease, lease, function()\n" \
    "    local ms = math.ceil(lease / 1000)\n" \
    "    redis.call('ZADD', key, string.format('%.0f', nowms + ms), member)\n" \
    "    if redis.call('PTTL', key) < ms + 1000 then redis.call('PEXPIRE', key, ms + 1000) end\n" \
    "  end\n" \
    "end\n"

const char mcp_rl_script_decide[] =
    PREAMBLE
    "local floor, grace, nonce = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]\n"
    BUCKET FIXED SLIDING SLOTS
    "local out, commits, refusals, all = {1, now}, {}, {}, true\n"
    "local loan\n"
    "for i, key in ipairs(KEYS) do\n"
    "  local a = 3 + (i - 1) * 8\n"
    "  local kind, mode, cost = ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3])\n"
    "  local n, period = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])\n"
    "  local burst, block = tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7])\n"
    "  local ok, rest, wait, one, reset, commit, refusal, want, gen, left\n"
    "  if kind == 'b' then\n"
    "    ok, rest, wait, one, reset, commit, refusal, want, gen, left =\n"
    "      bucket(key, cost, n, period, burst, block, ARGV[a + 8])\n"
    "    loan = {want, gen, left}\n"
    "  elseif kind == 'f' then\n"
    "    ok, rest, wait, one, reset, commit, refusal = fixed(key, mode, cost, n, period, block)\n"
    "  elseif kind == 's' then\n"
    "    ok, rest, wait, one, reset, commit, refusal = sliding(key, cost, n, period, block)\n"
    "  else\n"
    "    ok, rest, wait, one, reset, commit = slots(key, mode, n, period, burst, ARGV[a + 8])\n"
    "  end\n"
    "  local allowed = ok == true\n"
    "  if not allowed then all = false end\n"
    "  if commit then commits[#commits + 1] = commit end\n"
    "  if not allowed and refusal then refusals[#refusals + 1] = refusal end\n"
    "  local o = #out\n"
    "  out[o + 1] = ok == 2 and 2 or (allowed and 1 or 0)\n"
    "  out[o + 2], out[o + 3], out[o + 4], out[o + 5] = rest, math.ceil(wait), math.ceil(one),\n"
    "    math.ceil(reset)\n"
    "end\n"
    "if not all then commits, out[1] = refusals, 0 end\n"
    "for _, f in ipairs(commits) do f() end\n"
    "if loan and loan[1] > 0 then for i = 1, 3 do out[#out + 1] = loan[i] end end\n"
    "return out\n";

const char mcp_rl_script_renew[] =
    PREAMBLE
    "local lease, out = tonumber(ARGV[1]), {}\n"
    "for i, key in ipairs(KEYS) do\n"
    "  local score = redis.call('ZSCORE', key, ARGV[i + 1])\n"
    "  if score and tonumber(score) > nowms then\n"
    "    redis.call('ZADD', key, 'XX', string.format('%.0f', nowms + lease), ARGV[i + 1])\n"
    "    if redis.call('PTTL', key) < lease + 1000 then redis.call('PEXPIRE', key, lease + 1000) end\n"
    "    out[i] = 1\n"
    "  else\n"
    "    redis.call('ZREM', key, ARGV[i + 1])\n"
    "    out[i] = 0\n"
    "  end\n"
    "end\n"
    "return out\n";
