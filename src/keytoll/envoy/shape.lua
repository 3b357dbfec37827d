-- Runs on large JSON bodies, before Envoy parses them: a few bytes of JSON can become a hundred times as much memory, and
-- seconds of a worker's time. A body that holds more values than any prompt needs is replaced by an empty one, and Check is
-- told why: it refuses the request, as it would if this script failed and left the body as it is, or took it away.

local find = string.find
local MOST = {["["] = 1000000, ["{"] = 1000000, [","] = 2000000} -- also those in text, of which there are fewer

-- Whether `s` holds more than `most` of a character. Plain: a memchr, so what holds few is searched in no time.
local function has_more(s, character, most)
  local at = 0
  for _ = 0, most do
    at = find(s, character, at + 1, true)
    if not at then return false end
  end
  return true
end

function envoy_on_request(handle)
  local body = handle:body()
  if not body then return end
  local s = body:getBytes(0, body:length())
  for character, most in pairs(MOST) do
    if has_more(s, character, most) then
      body:setBytes("{}")
      handle:headers():remove("content-length")
      handle:streamInfo():dynamicMetadata():set("kt.req", "too_complex", true)
      return
    end
  end
end
