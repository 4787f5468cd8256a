/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lua side. Lua's numbers are doubles: times in microseconds and millionths of a token stay far
 * below 2^53, and where a product does not, the result is rounded down by more than its error.
 *
 * The server's clock may be put back. What was written with a time that is now to come is then
 * written anew, also by a question that is refused: it must not wait for the clock to come back.
 */
#include "mcp_rl_script.h"

#include <apr_strings.h>

#define CLOCK \
    "local t = redis.call('TIME')\n" \
    "local now = t[1] * 1000000 + t[2]\n"

/* What somebody else wrote may be anything; what is no number counts as missing. */
#define PREAMBLE \
    CLOCK \
    "local floor, grace, nonce = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]\n" \
    "local down, up, max, min = math.floor, math.ceil, math.max, math.min\n" \
    "if floor > now then floor, grace = 0, 0 end\n" \
    "local function number(s)\n" \
    "  local v = s and tonumber(s)\n" \
    "  if not v or v ~= v or v == math.huge or v == -math.huge then return nil end\n" \
    "  return v\n" \
    "end\n"

/* A double holds a time of today to a quarter of a microsecond, so rounding gives it exactly. */
#define BUCKET \
    "local function fixed6(v)\n" \
    "  return string.format('%d.%06d', down(v / 1000000), v % 1000000)\n" \
    "end\n" \
    "local function when(s)\n" \
    "  local v = number(s)\n" \
    "  if not v or v < 0 or v >= 1e10 then return nil end\n" \
    "  return down(v * 1000000 + 0.5)\n" \
    "end\n" \
    "local function span(micro, n, period)\n" \
    "  if micro <= 0 then return 0 end\n" \
    "  return min(1e15, up((micro + 1) * (period / 1000000) / n) + 1)\n" \
    "end\n" \
    /* Tokens that are lent count as if they were still in the bucket: it is filled up to the rest.
     * Who is refused for the sake of what others were lent asks them to give it back. */ \
    "local function bucket(key, cost, n, period, cap, want, settle)\n" \
    "  local s\n" \
    "  local lent, gen, until_ = 0, 0, 0\n" \
    "  local life, part = 1000000, 4\n" \
    "  if cap < 512 then life, part = 5000000, 2 end\n" \
    "  if cap >= 16 then\n" \
    "    s = redis.call('HMGET', key, 'tokens', 'last_refill', 'lent')\n" \
    "    local a, b, c = string.match(s[3] or '', '^(%d+) (%d+) (%d+)$')\n" \
    "    if a then lent, gen, until_ = tonumber(a), tonumber(b), tonumber(c) end\n" \
    "    if until_ <= now then lent, until_ = 0, 0 end\n" \
    "    until_ = min(until_, now + life)\n" \
    "  else\n" \
    "    s = redis.call('HMGET', key, 'tokens', 'last_refill')\n" \
    "  end\n" \
    "  if lent > 0 and settle ~= '' then\n" \
    "    local amount, of = string.match(settle, '^(%d+) (%d+)$')\n" \
    "    if amount and tonumber(of) == gen then lent = max(0, lent - tonumber(amount)) end\n" \
    "  end\n" \
    "  if lent == 0 then until_ = 0 end\n" \
    "  local tokens, last = number(s[1]), when(s[2])\n" \
    "  local full = max(0, cap - lent) * 1000000\n" \
    "  local fill = span(cap * 1000000, n, period)\n" \
    "  local micro\n" \
    "  if not tokens then\n" \
    "    micro, last = full, now\n" \
    "    if floor > 0 then micro, last = 0, floor end\n" \
    "  else\n" \
    "    micro = max(0, min(full, down(tokens * 1000000 + 0.5)))\n" \
    "    last = last or now\n" \
    "    if last < floor then micro, last = 0, floor end\n" \
    "  end\n" \
    /* A clock that went back far: what is there stays, and refilling starts anew. */ \
    "  local back = last - now > fill\n" \
    "  if back then last = now end\n" \
    "  local gone = now - last\n" \
    "  if gone >= fill then\n" \
    "    micro = max(micro, full)\n" \
    "  elseif gone > 0 then\n" \
    "    local more = gone * n / period * 1000000\n" \
    "    micro = max(micro, min(full, micro + down(more - more * 1e-12)))\n" \
    "  end\n" \
    "  local need = cost * 1000000\n" \
    "  local ok = cost <= cap and micro >= need\n" \
    "  local wait = 0\n" \
    "  if ok then\n" \
    "    micro = micro - need\n" \
    "  else\n" \
    "    wait = max(1, span(min(need, cap * 1000000) - micro, n, period))\n" \
    "  end\n" \
    "  if not ok and need > full then wait = max(wait, until_ - now) end\n" \
    "  if not ok and lent > 0 and cost <= cap and micro + lent * 1000000 >= need then\n" \
    "    ok = 3\n" \
    "    redis.pcall('PUBLISH', '" MCP_RL_RECALL_CHANNEL "',\n" \
    "      string.format('%.0f %.0f %.0f ', n, period, cap) .. key)\n" \
    "  end\n" \
    "  want = ok == true and min(want, down(micro / part / 1000000)) or 0\n" \
    "  if want > 0 then\n" \
    "    if until_ == 0 then gen, until_ = gen + 1, now + life end\n" \
    "    micro, lent = micro - want * 1000000, lent + want\n" \
    "  end\n" \
    "  local reset = span(cap * 1000000 - micro, n, period)\n" \
    "  local function store()\n" \
    "    local tokens, at = fixed6(micro), fixed6(max(last, now))\n" \
    "    if want > 0 or settle ~= '' then\n" \
    "      redis.call('HSET', key, 'tokens', tokens, 'last_refill', at,\n" \
    "        'lent', string.format('%d %d %.0f', lent, gen, until_))\n" \
    "    else\n" \
    "      redis.call('HSET', key, 'tokens', tokens, 'last_refill', at)\n" \
    "    end\n" \
    "    redis.call('PEXPIRE', key, up((reset + max(0, last - now)) / 1000) + 1000)\n" \
    "  end\n" \
    "  return ok, down(micro / 1000000), wait, span(1000000 - micro, n, period), reset, store,\n" \
    "    (back or settle ~= '') and store or nil, want, gen, max(0, until_ - now)\n" \
    "end\n"

#define FIXED \
    "local function fixed(key, mode, cost, n, period, block)\n" \
    "  local v = down(number(redis.call('GET', key)) or 0)\n" \
    "  local left = redis.call('PTTL', key) * 1000\n" \
    "  local most = max(period, block)\n" \
    "  if v <= 0 then v, left = 0, period end\n" \
    "  if left <= 0 then left = period end\n" \
    "  if left > most then\n" \
    "    left = most\n" \
    "    redis.call('PEXPIRE', key, up(most / 1000))\n" \
    "  end\n" \
    "  local blocked = v > n\n" \
    "  local ok = mode == 'r' or (not blocked and cost <= n - v)\n" \
    "  local after = v\n" \
    "  local full = blocked\n" \
    "  if not ok and not blocked and block > 0 then full, left, after = true, block, n + 1 end\n" \
    "  if ok and mode ~= 'k' and not blocked then\n" \
    "    after = v + cost\n" \
    "    if mode == 'r' and after >= n and block > 0 then left, after = block, n + 1 end\n" \
    "  end\n" \
    "  local rest = max(0, n - after)\n" \
    "  local function store()\n" \
    "    if after ~= v then\n" \
    "      redis.call('SET', key, string.format('%d', after), 'PX', max(1, up(left / 1000)))\n" \
    "    end\n" \
    "  end\n" \
    "  return ok, rest, ok and 0 or left, rest > 0 and 0 or left, left, store, store\n" \
    "end\n"

#define SLIDING \
    "local function sliding(key, cost, n, period, block)\n" \
    "  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - period))\n" \
    "  local stop = redis.call('ZSCORE', key, 'block')\n" \
    "  local keep = up(max(period, block) / 1000) + 1000\n" \
    "  local from_end, most = -1, max(0, block - period)\n" \
    "  if stop and tonumber(stop) > now then\n" \
    "    from_end, stop = -2, min(tonumber(stop), now + most)\n" \
    "    redis.call('ZADD', key, string.format('%.0f', stop), 'block')\n" \
    "  end\n" \
    "  local last = redis.call('ZRANGE', key, from_end, from_end, 'WITHSCORES')\n" \
    "  while last[2] and last[1] ~= 'block' and tonumber(last[2]) > now do\n" \
    "    redis.call('ZADD', key, string.format('%.0f', now), last[1])\n" \
    "    last = redis.call('ZRANGE', key, from_end, from_end, 'WITHSCORES')\n" \
    "  end\n" \
    "  if stop then\n" \
    "    local left = max(1, tonumber(stop) + period - now)\n" \
    "    return false, 0, left, left, left\n" \
    "  end\n" \
    "  local count = redis.call('ZCARD', key)\n" \
    "  local function until_free(c)\n" \
    "    local at = count + c - n\n" \
    "    if at <= 0 then return 0 end\n" \
    "    if at > count then return period end\n" \
    "    local row = redis.call('ZRANGE', key, at - 1, at - 1, 'WITHSCORES')\n" \
    "    return max(1, tonumber(row[2]) + period - now)\n" \
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
    "  return false, max(0, n - count), until_free(min(cost, n)), until_free(1), until_free(n)\n" \
    "end\n"

#define SLOTS \
    "local function slots(key, mode, n, lease, held, members)\n" \
    "  local member\n" \
    "  local nowms = down(now / 1000)\n" \
    "  for name in string.gmatch(members, '%S+') do\n" \
    "    if member then redis.call('ZREM', key, name) else member = name end\n" \
    "  end\n" \
    "  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', nowms))\n" \
    /* No lease is longer than a day. Whoever still has it renews it before it ends. */ \
    "  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')\n" \
    "  while last[2] and tonumber(last[2]) > nowms + 86401000 do\n" \
    "    redis.call('ZADD', key, string.format('%.0f', nowms + up(lease / 1000)), last[1])\n" \
    "    last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')\n" \
    "  end\n" \
    "  local mine = redis.call('ZSCORE', key, member)\n" \
    "  local count = redis.call('ZCARD', key)\n" \
    "  if not mine then\n" \
    "    if mode ~= 'a' and now < grace then " \
    "return 2, 0, grace - now, grace - now, grace - now end\n" \
    "    count = max(count, held)\n" \
    "    if count >= n then\n" \
    "      local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')\n" \
    "      local wait = lease\n" \
    "      if first[2] then wait = max(1000, (tonumber(first[2]) - nowms) * 1000) end\n" \
    "      return false, 0, wait, wait, wait\n" \
    "    end\n" \
    "    count = count + 1\n" \
    "  end\n" \
    "  local rest = max(0, n - count)\n" \
    "  return true, rest, 0, rest > 0 and 0 or lease, lease, function()\n" \
    "    local ms = up(lease / 1000)\n" \
    "    redis.call('ZADD', key, string.format('%.0f', nowms + ms), member)\n" \
    "    if redis.call('PTTL', key) < ms + 1000 then redis.call('PEXPIRE', key, ms + 1000) end\n" \
    "  end\n" \
    "end\n"

/* One for each set of kinds: a script that defines what it does not call takes time for that. */
static const char begin[] = PREAMBLE;
static const char *const kinds[MCP_RL_SCRIPT_KINDS] = { BUCKET, FIXED, SLIDING, SLOTS };
static const char end[] =
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
    "    if want > 0 then loan = {want, gen, left} end\n"
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
    "  out[o + 1] = allowed and 1 or ok or 0\n"
    "  out[o + 2], out[o + 3], out[o + 4], out[o + 5] = rest, math.ceil(wait), math.ceil(one),\n"
    "    math.ceil(reset)\n"
    "end\n"
    "if not all then commits, out[1] = refusals, 0 end\n"
    "for _, f in ipairs(commits) do f() end\n"
    "if loan then for i = 1, 3 do out[#out + 1] = loan[i] end end\n"
    "return out\n";

static unsigned bit_of(mcp_rl_kind_e kind)
{
    switch (kind) {
    case MCP_RL_BUCKET:
        return 1;
    case MCP_RL_FIXED:
        return 2;
    case MCP_RL_SLIDING:
        return 4;
    default:
        return 8;
    }
}

unsigned mcp_rl_script_set(unsigned set, mcp_rl_kind_e kind)
{
    return set | bit_of(kind);
}

const char *mcp_rl_script_decide(unsigned set, apr_pool_t *p)
{
    const char *text = begin;
    int i;

    for (i = 0; i < MCP_RL_SCRIPT_KINDS; i++) {
        text = apr_pstrcat(p, text, set & (1u << i) ? kinds[i] : "", NULL);
    }
    return apr_pstrcat(p, text, end, NULL);
}

/* What is left of a loan goes back into the bucket, as if it had never been lent. */
const char mcp_rl_script_give_back[] =
    CLOCK
    "local cap, left, spent = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])\n"
    "local gen = ARGV[4]\n"
    "local s = redis.call('HMGET', KEYS[1], 'tokens', 'lent')\n"
    "local tokens = tonumber(s[1] or '')\n"
    "local a, b, c = string.match(s[2] or '', '^(%d+) (%d+) (%d+)$')\n"
    "if not tokens or b ~= gen or tonumber(c) <= now then return 0 end\n"
    "local lent = math.max(0, tonumber(a) - left - spent)\n"
    "local micro = math.floor(tokens * 1000000 + 0.5) + left * 1000000\n"
    "micro = math.max(0, math.min((cap - lent) * 1000000, micro))\n"
    "redis.call('HSET', KEYS[1], 'tokens',\n"
    "  string.format('%d.%06d', math.floor(micro / 1000000), micro % 1000000),\n"
    "  'lent', string.format('%d %s %s', lent, b, c))\n"
    "return 1\n";

const char mcp_rl_script_renew[] =
    CLOCK
    "local nowms = math.floor(now / 1000)\n"
    "local lease, out = tonumber(ARGV[1]), {}\n"
    "for i, key in ipairs(KEYS) do\n"
    "  local score = redis.call('ZSCORE', key, ARGV[i + 1])\n"
    "  if score and tonumber(score) > nowms then\n"
    "    redis.call('ZADD', key, 'XX', string.format('%.0f', nowms + lease), ARGV[i + 1])\n"
    "    if redis.call('PTTL', key) < lease + 1000 then "
    "redis.call('PEXPIRE', key, lease + 1000) end\n"
    "    out[i] = 1\n"
    "  else\n"
    "    redis.call('ZREM', key, ARGV[i + 1])\n"
    "    out[i] = 0\n"
    "  end\n"
    "end\n"
    "return out\n";
