-- Requests for wrk: no two have the same text. Prints one JSON document.
-- Whatever is no status 200 or lacks the upstream's last token is counted as bad.

local who = {"a clerk", "a nurse", "a pilot", "a teacher", "a gardener", "a sailor", "a baker", "a judge"}
local does = {"keeps", "finds", "repairs", "paints", "sells", "counts", "hides", "carries"}
local what = {"an old clock", "a red lamp", "seven letters", "a small boat", "the last map", "a green door"}
local key = "Bearer sk-bench-9f4c1e7a2b8d4f60a3c5e7d9b1f2a4c6"
local texts, threads = {}, {}
local count = 0
bad = 0

local function offer(text)
  texts[#texts + 1] = '{"model":"mock","messages":[{"role":"system","content":"You are a helpful assistant."},'
    .. '{"role":"user","content":"Tell me a short story in which ' .. text .. ', and say why it matters. Story %d."}],'
    .. '"max_tokens":128}'
end

for _, a in ipairs(who) do
  for _, b in ipairs(does) do
    for _, c in ipairs(what) do offer(a .. " " .. b .. " " .. c) end
  end
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init()
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = key
  -- Runs do not repeat one another's texts either.
  count = (os.time() % 100000) * 1000000
end

function request()
  count = count + 1
  return wrk.format("POST", nil, nil, string.format(texts[count % #texts + 1], count))
end

function response(status, _, body)
  if status ~= 200 or not body:find("tok99", 1, true) then bad = bad + 1 end
end

function done(summary, latency)
  local wrong = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  for _, thread in ipairs(threads) do wrong = wrong + thread:get("bad") end
  io.write(string.format('{"n":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"bad":%d}\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, wrong))
end
