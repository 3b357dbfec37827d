-- Runs on the data listener before Check, for multipart forms only. Keytoll writes it to RUN_DIR/lua/form.lua.
--
-- It reads the fields that Check decides by, as json_to_metadata does for JSON: `model` and `stream` go to kt.req, and where
-- the model's name stands to kt.form, for request.lua. Or it says `bad_body`. Check refuses a request of which it has no
-- model, so a script that failed, and one that never ran, end in a refusal as well.
--
-- The threat: a form that a backend's parser reads otherwise than this one, so that another model is served than is paid for.
-- So nothing is taken that two parsers could read differently: no preamble, no epilogue, no folded or unknown part headers,
-- no escapes, and the boundary nowhere but in a delimiter, not even where only a lax parser would take it for one.

local find, sub, lower, match, gsub = string.find, string.sub, string.lower, string.match, string.gsub
local FACTS, OURS = "kt.req", "kt.form"

local MAX_PARTS, MAX_HEAD = 100, 8192 -- no real form has more; each part takes time of the worker
local READ = {model = true, stream = true}
local PARAMETERS = {name = true, filename = true, ["filename*"] = true}
local PART_HEADERS = {
  ["content-disposition"] = true, ["content-type"] = true, ["content-length"] = true, ["content-transfer-encoding"] = true,
}
local AS_IT_IS = {["binary"] = true, ["8bit"] = true, ["7bit"] = true} -- a backend might decode base64
local PLAIN = {["text/plain"] = true, ["text/plain;charset=utf-8"] = true, ["text/plain;charset=us-ascii"] = true}

-- Header values -------------------------------------------------------------------------------------------------------

-- The first of `; name=value; name="value"`, and what follows it; nil if it is not in this form.
local function parameter(s)
  local name, value, rest = match(s, '^[ \t]*;[ \t]*([%l*]+)="([^"\\%c]*)"(.*)$')
  if name then return name, value, rest end
  return match(s, "^[ \t]*;[ \t]*([%l*]+)=([%w!#$&'*+.^_`{|}~%%-]+)(.*)$")
end

-- The boundary that a content type names, or nil.
function boundary_of(content_type)
  if lower(sub(content_type, 1, 19)) ~= "multipart/form-data" then return nil end
  local rest, boundary = sub(content_type, 20), nil
  while rest ~= "" do
    local name, value, more = parameter(rest)
    if name == "boundary" and not boundary then boundary = value
    elseif not (name == "charset" and lower(value) == "utf-8") then return nil end
    rest = more
  end
  if boundary and #boundary <= 70 and find(boundary, "^[%w'()+_,./:=?-]+$") then return boundary end
end

-- The parameters of a part's content-disposition, its name among them, or nil.
local function disposition(value)
  if sub(value, 1, 9) ~= "form-data" then return nil end
  local rest, given = sub(value, 10), {}
  while rest ~= "" do
    local name, text, more = parameter(rest)
    if not PARAMETERS[name or ""] or given[name] then return nil end
    if not given.name and name ~= "name" then return nil end -- first, as all clients have it: some search for it
    given[name], rest = text, more
  end
  if given.filename and find(lower(given.filename), ";%s*%w*name%*?%s*=") then return nil end
  return given.name and given
end

-- Parts ---------------------------------------------------------------------------------------------------------------

-- The headers of a part by lower-case name, or nil.
local function headers_of(head)
  local headers, at = {}, 1
  while at <= #head + 1 do
    local stop = find(head, "\r\n", at, true) or #head + 1
    local name, value = match(sub(head, at, stop - 1), "^([%a-]+):[ \t]*([^%c]*)$")
    name = name and lower(name)
    if not PART_HEADERS[name or ""] or headers[name] then return nil end
    headers[name], at = value, stop + 2
  end
  return headers
end

-- Whether a field may have this name; some backends make an array of `model[]`, and fold the case.
local function is_clear(name)
  local base, rest = match(name, "^([%w_-]+)([%w_%[%]-]*)$")
  if not base or rest ~= "" and sub(rest, 1, 1) ~= "[" or base == "_charset_" then return false end
  return not READ[lower(base)] or READ[name]
end

-- Whether a part can be read in one way only. `length` is that of its content.
local function is_plain(headers, given, length)
  local encoding, declared = headers["content-transfer-encoding"], headers["content-length"]
  if encoding and not AS_IT_IS[lower(encoding)] or declared and declared ~= tostring(length) then return false end
  if not READ[given.name] then return true end
  local kind = headers["content-type"]
  return not given.filename and not given["filename*"] and (not kind or PLAIN[lower((gsub(kind, "[ \"]", "")))] or false)
end

-- The name of the part s[first..last], and where its content begins; or nil.
local function part(s, first, last)
  local blank = find(s, "\r\n\r\n", first, true)
  if not blank or blank + 3 > last or blank - first > MAX_HEAD then return nil end
  local headers = headers_of(sub(s, first, blank - 1))
  local given = headers and headers["content-disposition"] and disposition(headers["content-disposition"])
  if not given or not is_clear(given.name) or not is_plain(headers, given, last - blank - 3) then return nil end
  return given.name, blank + 4
end

-- Where the fields that Keytoll reads stand in a form, as {first, last} by name; nil in any doubt. 1-based and inclusive.
local function fields(s, boundary)
  local dashes, spans, parts = "--" .. boundary, {}, 0
  if sub(s, 1, #dashes) ~= dashes then return nil end
  local at = #dashes + 1 -- after a delimiter
  while sub(s, at, at + 1) == "\r\n" do
    local next_at = find(s, dashes, at, true)
    if not next_at or sub(s, next_at - 2, next_at - 1) ~= "\r\n" or parts == MAX_PARTS then return nil end
    local name, first = part(s, at + 2, next_at - 3)
    if not name or spans[name] then return nil end
    if READ[name] then spans[name] = {first, next_at - 3} end
    at, parts = next_at + #dashes, parts + 1
  end
  local rest = sub(s, at, at + 4)
  if rest == "--" or rest == "--\r\n" then return spans end
end

-- What Check is to know of a form: its model ("" if it has none), where that stands, and `stream`; nil in any doubt.
function read_form(s, boundary)
  local spans = fields(s, boundary)
  if not spans then return nil end
  local function text(name) return spans[name] and sub(s, spans[name][1], spans[name][2]) end
  local model, stream = text("model") or "", text("stream")
  if not find(model, "^[\33-\126]*$") or #model > 256 then return nil end
  if stream == "true" or stream == "false" then stream = stream == "true"
  elseif stream then stream = "" end -- neither: Check says so
  return {model = model, stream = stream, model_at = spans.model and spans.model[1] .. " " .. spans.model[2]}
end

function envoy_on_request(handle)
  local boundary = boundary_of(handle:headers():get("content-type") or "")
  local body = boundary and handle:body() -- yields: every handle that was fetched before is dead after it
  local form = body and read_form(body:getBytes(0, body:length()), boundary)
  local metadata = handle:streamInfo():dynamicMetadata()
  if not form then metadata:set(FACTS, "bad_body", true) return end
  if form.model_at then metadata:set(OURS, "model_at", form.model_at) end
  if form.stream ~= nil then metadata:set(FACTS, "stream", form.stream) end
  metadata:set(FACTS, "model", form.model) -- last: without it Check refuses
end
