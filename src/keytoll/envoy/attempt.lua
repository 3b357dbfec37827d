-- Runs in every pool, once for each attempt, after Envoy chose the backend. header_mutation stands before it: it removed
-- what a backend must not see, the caller's credentials first of all, and put what the chosen backend needs into one
-- header, which ends here.
--
-- All attempts of a request share one header map: what one attempt sets or removes, the next one finds. So every attempt
-- sets every header anew, and the caller's path, once it is changed, is kept in metadata.

local CREDENTIALS = "credentials/" -- Envoy's working directory is RUN_DIR
local OURS = "kt.attempt"
-- An answer given here is neither retried nor given its shape by local_reply_config.
local UNAVAILABLE = '{"error":{"message":"The backend of this model is not available","type":"server_error",'
  .. '"param":null,"code":"upstream_unavailable"}}'

local secrets = {} -- by name, each for one second: a file that is replaced counts from the next second on

local function read_secret(name)
  local file = io.open(CREDENTIALS .. name, "r")
  if not file then return nil end
  local text = file:read("*a") or ""
  file:close()
  return string.match(text, "^%s*([\33-\126]+)%s*$") -- nothing that could end the header
end

local function secret_of(name)
  if not string.find(name, "^[%w_-]+$") then return nil end
  local now, known = os.time(), secrets[name]
  if known and known.at == now then return known.value end
  local value = read_secret(name)
  if not value then return known and known.value end -- it is being replaced: the last one goes on
  secrets[name] = {at = now, value = value}
  return value
end

-- Put the backend's base path in place of /v1.
local function set_path(handle, headers, base)
  local metadata, current = handle:streamInfo():dynamicMetadata(), headers:get(":path")
  local ours = metadata:get(OURS)
  local path = ours and ours["path"] or string.match(current, "^[^?]*") -- a query could mean something to a backend
  if string.sub(path, 1, 4) ~= "/v1/" then error("a path that is not under /v1/") end
  local wanted = base .. string.sub(path, 4)
  if wanted == current then return end
  if not ours then metadata:set(OURS, "path", path) end
  headers:replace(":path", wanted)
end

-- Replaces the model's name in the body, where request.lua found it and the members of the pool differ in it.
local function set_model(handle, model)
  local found = handle:streamInfo():dynamicMetadata():get("kt.lua")
  local span = found and found["model_at"]
  if not span then return end
  local first, last, raw = string.match(span, "^(%d+) (%d+)( ?%a*)$") -- raw: in a form, where nothing is quoted
  local body = handle:body()
  local before = body:getBytes(0, body:length())
  local quote = raw == " raw" and "" or '"'
  local after = string.sub(before, 1, first - 1) .. quote .. model .. quote .. string.sub(before, last + 1)
  body:setBytes(after)
  local headers = handle:headers() -- what was fetched before body() is dead by now
  if headers:get("content-length") then headers:replace("content-length", tostring(#after)) end
end

-- Returns whether the request may go out.
local function prepare(handle)
  local headers = handle:headers()
  local authority, base, model, credential = string.match(headers:get("x-kt-backend"), "^(%S+) (%S*) (%S+) ?(%S*)$")
  headers:remove("x-kt-backend")
  headers:replace(":authority", authority)
  set_path(handle, headers, base)
  if credential ~= "" then
    local secret = secret_of(credential)
    if not secret then return false end -- else the backend's 401 would look like the caller's fault
    headers:replace("authorization", "Bearer " .. secret)
  end
  set_model(handle, model)
  return true
end

function envoy_on_request(handle)
  -- Envoy lets a request go on after a Lua error: half prepared it would reach the wrong path or model.
  local done, ready = pcall(prepare, handle)
  if done and ready then return end
  if done then handle:logErr("no usable credential file") else handle:logErr(tostring(ready)) end
  handle:respond({[":status"] = "503", ["content-type"] = "application/json", ["retry-after"] = "1"}, UNAVAILABLE)
end
