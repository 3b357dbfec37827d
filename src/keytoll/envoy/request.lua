-- Runs on the data listener, after Check, once for each request. Keytoll writes it to RUN_DIR/lua/request.lua.
--
-- Check's metadata says what to do; the script knows no paths and no models of its own. What is not to be done isn't there:
--   pool            the cluster to route to               retries       further members of that pool
--   body            "json", "form", or "none": no body     upstream_model  the model's name at the backends, if all agree
--   include_usage   ask for a stream's usage              strip_usage   ... and hide the chunk that answers it
--   running_usage   ask for the usage so far as well      no_running_usage  ... or don't: of several answers it is no sum
--   store_false     send `store: false`
--
-- On the way in it refuses ambiguous spellings, splices the body byte-faithfully, and with its LAST line opens the route.
-- A Lua error lets a request go on: so nothing but that last line may set x-kt-route, without which nothing is routed.
-- On the way back it leaves the usage that a JSON answer reports in kt.usage, counts every stream's events and bytes, and
-- hides the usage chunk from callers who didn't ask for it.

local find, byte, sub, lower, match = string.find, string.byte, string.sub, string.lower, string.match
local CHECK, OURS, USAGE = "envoy.filters.http.ext_authz", "kt.lua", "kt.usage"
local QUOTE, BACKSLASH, COMMA, COLON = 34, 92, 44, 58
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 123, 125, 91, 93

-- JSON text -----------------------------------------------------------------------------------------------------------
-- Envoy's own parser has accepted the body before; this finds where things stand in it. Indices are 1-based and inclusive.

-- The names at the top level that Keytoll or a backend reads, each at most once and in exactly this spelling, and how its
-- value may begin. Two parsers may disagree about which of two counts, and json_to_metadata sees nothing in a string of
-- more than 8 KiB, an object or an array: then what is decided and charged is not what is served.
local BOOLEAN, COUNT, ABSENT = "[tfn]", "[0-9n]", "n"
local TOP = {
  model = '"', stream = BOOLEAN, stream_options = "[{n]", n = COUNT, best_of = COUNT, max_tokens = COUNT,
  max_completion_tokens = COUNT, max_output_tokens = COUNT,
  -- Stored state, which callers would share. A prompt that is an object is a stored one.
  store = "[fn]", background = "[fn]", previous_response_id = ABSENT, conversation = ABSENT, prompt = '["%[n]',
  -- Other names for a token limit or a price, which some backend obeys and nothing here counts by.
  generation_config = ABSENT, n_predict = ABSENT, num_predict = ABSENT, max_new_tokens = ABSENT, models = ABSENT,
  service_tier = '["n]', web_search_options = ABSENT, plugins = ABSENT, encoding_format = '["n]',
  -- What would be served then is not the model that is priced, or not in one context that is known.
  chat_template = ABSENT, chat_template_kwargs = "[{n]", lora_path = ABSENT, session_params = ABSENT,
  kv_transfer_params = ABSENT, tools = "[%[n]",
}
local OPTIONS = {include_usage = BOOLEAN, continuous_usage_stats = BOOLEAN}
-- Of some names only these values: other tiers cost more; of other formats the usage can't be read.
local VALUES = {
  service_tier = {["null"] = true, ['"auto"'] = true, ['"default"'] = true},
  encoding_format = {["null"] = true, ['"float"'] = true, ['"base64"'] = true},
}
-- A backend's own tools search, run and store at a price of their own, and read what is kept in the shared account.
local TOOL = {type = '"'}
local TOOLS = {['"function"'] = true, ['"custom"'] = true}
local TEMPLATE = {chat_template = ABSENT}

-- Index after the string that opens at i.
local function after_string(s, i)
  local from = i + 1
  while true do
    local close = find(s, '"', from, true) -- plain: a memchr, so a long prompt costs next to nothing
    if not close then return nil end
    local k = close - 1
    while byte(s, k) == BACKSLASH do k = k - 1 end
    if (close - k) % 2 == 1 then return close + 1 end
    from = close + 1
  end
end

-- Index after the object or array that opens at i.
local function after_nested(s, i)
  local depth = 0
  repeat
    local j = find(s, '["%[%]{}]', i)
    if not j then return nil end
    local c = byte(s, j)
    if c == QUOTE then
      i = after_string(s, j)
      if not i then return nil end
    else
      depth = depth + ((c == OPEN_OBJECT or c == OPEN_ARRAY) and 1 or -1)
      i = j + 1
    end
  until depth == 0
  return i
end

local function after_value(s, i)
  local c = byte(s, i)
  if c == QUOTE then return after_string(s, i) end
  if c == OPEN_OBJECT or c == OPEN_ARRAY then return after_nested(s, i) end
  return find(s, "[,%]} \t\r\n]", i)
end

-- The name of a member if it may stand there, else nil and the name at fault.
local function checked(name, known)
  if find(name, "[\\\128-\255]") then return nil, "" end -- escaped, or a letter that some parser folds to ASCII
  if not known[name] and #name <= 64 and known[lower(name)] then return nil, lower(name) end
  return name
end

-- Members of the object that opens at i: spans[name] = {first, last} of the values of `known` names, how many members there
-- are, and where it closes. In doubt: nil and the name at fault. `lax`, for what comes from a backend: the last one counts.
local function members(s, i, known, lax)
  local spans, count = {}, 0
  i = find(s, "[^ \t\r\n]", i + 1)
  if i and byte(s, i) == CLOSE_OBJECT then return spans, 0, i end
  while i and byte(s, i) == QUOTE do
    local after = after_string(s, i)
    if not after then return nil end
    local name, fault = sub(s, i + 1, after - 2), nil
    if not lax then name, fault = checked(name, known) end
    if not name then return nil, fault end
    local _, colon = find(s, "^[ \t\r\n]*:[ \t\r\n]*", after)
    local past = colon and after_value(s, colon + 1)
    if not past then return nil end
    count = count + 1
    if known[name] then
      if not lax and (spans[name] or not find(s, "^" .. known[name], colon + 1)) then return nil, name end
      spans[name] = {colon + 1, past - 1}
    end
    i = find(s, "[^ \t\r\n]", past)
    local c = i and byte(s, i)
    if c == CLOSE_OBJECT then return spans, count, i end
    if c ~= COMMA then return nil end
    i = find(s, "[^ \t\r\n]", i + 1)
  end
  return nil
end

-- Splicing ------------------------------------------------------------------------------------------------------------
-- An edit {first, last, text} replaces the bytes first..last; last = first - 1 inserts.

-- Set a member of the object that opens at `open` and has `count` members; return how many it then has.
local function set_member(edits, open, count, span, name, text)
  if span then
    edits[#edits + 1] = {span[1], span[2], text}
    return count
  end
  edits[#edits + 1] = {open + 1, open, '"' .. name .. '":' .. text .. (count > 0 and "," or "")}
  return count + 1
end

-- Ask for the usage of a stream, keeping whatever other options there are. Returns the new count, or nil if that can't be.
local function ask_for_usage(edits, s, open, count, span, running, not_running)
  if not span or sub(s, span[1], span[2]) == "null" then
    local options = running and '{"include_usage":true,"continuous_usage_stats":true}' or '{"include_usage":true}'
    return set_member(edits, open, count, span, "stream_options", options)
  end
  if byte(s, span[1]) ~= OPEN_OBJECT then return nil end
  local inner, inner_count = members(s, span[1], OPTIONS)
  if not inner then return nil end
  inner_count = set_member(edits, span[1], inner_count, inner.include_usage, "include_usage", "true")
  local stats = inner.continuous_usage_stats
  if running then set_member(edits, span[1], inner_count, stats, "continuous_usage_stats", "true") end
  if not_running and stats then set_member(edits, span[1], inner_count, stats, "continuous_usage_stats", "false") end
  return count
end

-- Apply the edits; return the new text and where the bytes of `span` (which no edit may cut) stand in it.
local function apply(s, edits, span)
  for k, e in ipairs(edits) do e.order = k end
  -- A later insertion at the same place goes first: it was written knowing that something follows it.
  table.sort(edits, function(a, b) if a[1] ~= b[1] then return a[1] < b[1] end return a.order > b.order end)
  local out, at, first, last = {}, 1, span and span[1], span and span[2]
  for _, e in ipairs(edits) do
    out[#out + 1] = sub(s, at, e[1] - 1)
    out[#out + 1] = e[3]
    at = e[2] + 1
    if span then
      local growth = #e[3] - (e[2] - e[1] + 1)
      if e[1] < span[1] then first, last = first + growth, last + growth
      elseif e[1] == span[1] then last = last + growth end
    end
  end
  out[#out + 1] = sub(s, at)
  return table.concat(out), span and {first, last}
end

-- Whether all elements of the array that opens at i are tools that the caller runs.
local function only_callers_tools(s, i)
  i = find(s, "[^ \t\r\n]", i + 1)
  while i and byte(s, i) == OPEN_OBJECT do
    local spans = members(s, i, TOOL)
    local kind = spans and spans.type
    if not kind or not TOOLS[sub(s, kind[1], kind[2])] then return false end
    i = find(s, "[^ \t\r\n]", after_nested(s, i))
    if byte(s, i) == COMMA then i = find(s, "[^ \t\r\n]", i + 1) end
  end
  return i and byte(s, i) == CLOSE_ARRAY
end

-- The name of a top-level member whose value is not supported, if there is one.
local function fault_inside(s, spans)
  for name, values in pairs(VALUES) do
    local span = spans[name]
    if span and not values[sub(s, span[1], span[2])] then return name end
  end
  local tools, kwargs = spans.tools, spans.chat_template_kwargs
  if tools and byte(s, tools[1]) == OPEN_ARRAY and not only_callers_tools(s, tools[1]) then return "tools" end
  if kwargs and byte(s, kwargs[1]) == OPEN_OBJECT and not members(s, kwargs[1], TEMPLATE) then
    return "chat_template_kwargs"
  end
end

-- The body as the backend shall get it and the span of the model's name in it; or nil and the name at fault.
function edit(s, orders)
  local open = find(s, "{", 1, true)
  if not open then return nil end
  local spans, count, close = members(s, open, TOP)
  if not spans then return nil, count end
  if find(s, "[^ \t\r\n]", close + 1) then return nil end -- Envoy's parser stops at a NUL, others may read on
  local fault = fault_inside(s, spans)
  if fault then return nil, fault end
  local edits = {}
  if orders.include_usage then
    count = ask_for_usage(edits, s, open, count, spans.stream_options, orders.running_usage,
      orders.no_running_usage)
    if not count then return nil, "stream_options" end
  end
  if orders.store_false then count = set_member(edits, open, count, spans.store, "store", "false") end
  local model, name = spans.model, orders.upstream_model and '"' .. orders.upstream_model .. '"'
  if name and model and sub(s, model[1], model[2]) ~= name then edits[#edits + 1] = {model[1], model[2], name} end
  if #edits == 0 then return s, model end
  return apply(s, edits, model)
end

-- Requests ------------------------------------------------------------------------------------------------------------

local function refuse(handle, name)
  local named = name and name ~= ""
  local message = named and "`" .. name .. "` is given twice, misspelt, of the wrong kind, or not supported"
    or "A name in the body is escaped, or the body is not a JSON object"
  handle:streamInfo():dynamicMetadata():set(OURS, "refused", true)
  handle:respond(
    {[":status"] = "400", ["content-type"] = "application/json", ["x-should-retry"] = "false"},
    '{"error": {"message": "' .. message .. '", "type": "invalid_request_error", "param": '
      .. (named and '"' .. name .. '"' or "null") .. ', "code": null}}')
end

-- Rewrite a JSON body by Check's orders; false if it was refused.
local function rewrite(handle, orders)
  local body = handle:body() -- yields: every handle that was fetched before is dead after it
  if not body then refuse(handle) return false end
  local before = body:getBytes(0, body:length())
  local after, model = edit(before, orders)
  if not after then refuse(handle, model) return false end
  if after ~= before then
    body:setBytes(after)
    if handle:headers():get("content-length") then handle:headers():replace("content-length", tostring(#after)) end
  end
  if model and not orders.upstream_model then -- the pool's members differ in it: attempt.lua writes it for each
    handle:streamInfo():dynamicMetadata():set(OURS, "model_at", model[1] .. " " .. model[2])
  end
  return true
end

-- Put the upstream model into a form that form.lua has read, whose metadata says where.
local function rewrite_form(handle, upstream_model)
  local metadata = handle:streamInfo():dynamicMetadata()
  local model, span = metadata:get("kt.req")["model"], metadata:get("kt.form")["model_at"]
  if not upstream_model then metadata:set(OURS, "model_at", span .. " raw") return end
  local first, last = match(span, "^(%d+) (%d+)$")
  local body = handle:body()
  local before = body:getBytes(0, body:length())
  if sub(before, first, last) ~= model then error("not the form that was read") end
  local after = sub(before, 1, first - 1) .. upstream_model .. sub(before, last + 1)
  body:setBytes(after)
  if handle:headers():get("content-length") then handle:headers():replace("content-length", tostring(#after)) end
end

-- Leave only headers of these names; pseudo-headers stay. Whatever else a caller sends could mean something to a backend,
-- whose account all callers share, and whatever else a backend sends could tell a caller of that account.
local REQUEST_HEADERS = {
  ["content-type"] = true, ["content-length"] = true, ["transfer-encoding"] = true, accept = true, ["user-agent"] = true,
  ["x-request-id"] = true, traceparent = true, tracestate = true,
  ["x-forwarded-proto"] = true, -- without it Envoy finds no route; it is removed before an attempt
}
local ANSWER_HEADERS = {
  ["content-type"] = true, ["content-length"] = true, ["transfer-encoding"] = true, ["content-disposition"] = true,
  ["content-language"] = true, ["cache-control"] = true, date = true, server = true, ["x-request-id"] = true,
  ["retry-after"] = true, ["retry-after-ms"] = true, ["x-should-retry"] = true, ["www-authenticate"] = true, allow = true,
}
-- What is left of the key's limit, x-keytoll-quota-remaining, is no backend's to say: Check's filter adds it after this.
-- Returns the values of those that stay. Each crossing to Envoy costs, so they are not fetched again one by one.
local function keep_only(headers, names)
  local kept, others = {}, {}
  for name, value in pairs(headers) do
    if names[name] or byte(name) == COLON then kept[name] = value else others[#others + 1] = name end
  end
  for _, name in ipairs(others) do headers:remove(name) end
  return kept
end

function envoy_on_request(handle)
  local orders = handle:streamInfo():dynamicMetadata():get(CHECK)
  local kind = orders["body"]
  if kind == "json" then
    if not rewrite(handle, orders) then return end
  elseif kind == "form" then rewrite_form(handle, orders["upstream_model"])
  elseif kind ~= "none" then error("no decision") end
  local headers = handle:headers()
  if kind ~= "none" then
    local kept = keep_only(headers, REQUEST_HEADERS)
    -- A charset would make it another document.
    if kind == "json" and kept["content-type"] ~= "application/json" then headers:replace("content-type", "application/json") end
  end
  if orders["retries"] then headers:replace("x-envoy-max-retries", tostring(orders["retries"])) end
  headers:replace("x-kt-route", orders["pool"])
  handle:clearRouteCache()
end

-- Usage ---------------------------------------------------------------------------------------------------------------
-- Of a JSON answer its text is kept as it stands, and read when it is settled: to make a tree of the whole answer, and to
-- look for each count in it, would take Envoy as long as all else that is done here.

local REPORT = {usage = true, meta = true} -- the latter is where rerankers count
local MAX_REPORT = 4096 -- real ones have a tenth of it; it is written to the journal

-- Whether a body of this content type can be JSON, whatever a sloppy backend calls its JSON.
function is_json(content_type)
  local kind = match(content_type, "^[^;%s]*")
  return kind == "" or kind == "application/json" or kind == "text/plain" or kind == "text/json"
    or find(kind, "^application/[%w.+-]*%+json$") ~= nil
end

-- The text of the top-level member of this name in an answer, if that is an object; nil if there is none.
--
-- What stands before is passed over unread, which takes next to no time: inside of text no quote is bare, so a name in
-- quotes with a colon behind it is a member's, and at the top level is what has nothing but members behind it, up to the
-- answer's end. All that is inside of the same object as one that is not at the top is none either: it is passed over.
local function report_in(s, name)
  local quoted, at = '"' .. name .. '"', 1
  while true do
    at = find(s, quoted, at + 1, true)
    if not at then return nil end
    if byte(s, at - 1) ~= BACKSLASH and find(s, "^[ \t\r\n]*:", at + #quoted) then
      local spans, _, close = members(s, at - 1, REPORT, true)
      if not spans then return nil end
      if not find(s, "[^ \t\r\n]", close + 1) then
        local first, last = spans[name][1], spans[name][2]
        return byte(s, first) == OPEN_OBJECT and last - first < MAX_REPORT and sub(s, first, last) or nil
      end
      at = close
    end
  end
end

-- What an answer says of its usage, and by which name; nil if that is nothing, or in doubt.
function usage_in(s)
  if not find(s, "^[ \t\r\n]*{") then return nil end
  for _, name in ipairs {"usage", "meta"} do
    local report = report_in(s, name)
    if report then return report, name end
  end
end

function keep_usage(handle)
  local body = handle:body() -- yields: every handle that was fetched before is dead after it
  local report, name = nil, nil
  if body then report, name = usage_in(body:getBytes(0, body:length())) end
  if report then handle:streamInfo():dynamicMetadata():set(USAGE, name, report) end
end

-- Streams -------------------------------------------------------------------------------------------------------------

local MAX_HELD = 1048576 -- an event that is longer can't be the usage chunk: let it go

-- Index of the last byte of the event that starts at `from` (its blank line included), if all of it is there.
local function event_end(s, from)
  while true do
    local newline = find(s, "\n", from, true)
    if not newline then return nil end
    local next_byte = byte(s, newline + 1)
    if next_byte == 10 then return newline + 1 end
    if next_byte == 13 and byte(s, newline + 2) == 10 then return newline + 2 end
    from = newline + 1
  end
end

-- Whether an event is the chunk that `include_usage` adds: no choices, and the usage. Quotes inside of generated text are
-- escaped, so they match nothing here.
local function is_usage_chunk(event)
  return find(event, '"choices"%s*:%s*%[%s*%]') and find(event, '"usage"%s*:%s*{')
    and not find(event, '"choices"%s*:%s*%[%s*[^%]%s]')
end

-- Of `held` and what comes after it: what may go on to the caller, and what must wait for the rest of its event.
function without_usage_chunk(s)
  local out, from = {}, 1
  while true do
    local last = event_end(s, from)
    if not last then break end
    local event = sub(s, from, last)
    if not is_usage_chunk(event) then out[#out + 1] = event end
    from = last + 1
  end
  local rest = sub(s, from)
  if #rest > MAX_HELD then
    out[#out + 1] = rest
    rest = ""
  end
  return table.concat(out), rest
end

-- What is the caller's of an event in whose middle the stream ended.
local function rest_of_stream(held)
  return is_usage_chunk(held) and "" or held
end

-- How many lines of `s` start with data:, the byte before it being the last of `before`.
function count_events(before, s)
  local seen, at, events = before .. s, 1, 0
  while true do
    local _, last = find(seen, "\ndata:", at, true)
    if not last then return events, sub(seen, -5) end
    events, at = events + 1, last + 1
  end
end

local UNAVAILABLE = '{"error": {"message": "The model\'s backend is not available", "type": "server_error", '
  .. '"param": null, "code": "upstream_unavailable"}}'

-- A redirect, or a refusal of the credential that was sent, is the operator's to mend; it would tell callers of the backend,
-- and SDKs would take it for their own key's fault. The members of the pool have all been tried.
local function is_misconfigured(status)
  return status == 401 or status == 403 or status >= 300 and status < 400
end

local function hide(handle)
  handle:body(true):setBytes(UNAVAILABLE)
  local headers = handle:headers()
  headers:replace(":status", "502")
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(#UNAVAILABLE))
end

function envoy_on_response(handle)
  local check = handle:streamInfo():dynamicMetadata():get(CHECK)
  if not check or not check["pool"] then return end -- refused before it reached anything
  local headers = handle:headers()
  local kept = keep_only(headers, ANSWER_HEADERS)
  if not check["decision_id"] then return end
  if is_misconfigured(tonumber(kept[":status"])) then return hide(handle) end
  local kind = lower(kept["content-type"] or "")
  if not find(kind, "text/event-stream", 1, true) then
    if is_json(kind) then keep_usage(handle) end
    return
  end
  local strip, declared = check["strip_usage"] == true, tonumber(kept["content-length"] or "")
  if strip then headers:remove("content-length") end
  local events, bytes, before, held = 0, 0, "\n", ""
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local s, more = chunk:getBytes(0, length), 0
      more, before = count_events(before, s)
      events, bytes = events + more, bytes + length
      handle:streamInfo():dynamicMetadata():set(OURS, "stream", {events = events, bytes = bytes})
      if strip then
        s, held = without_usage_chunk(held .. s)
        if bytes == declared then s, held = s .. rest_of_stream(held), "" end -- no empty chunk follows
        chunk:setBytes(s)
      end
    elseif held ~= "" then
      chunk:setBytes(rest_of_stream(held))
      held = ""
    end
  end
end
