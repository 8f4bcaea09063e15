-- Looks a host up again whose scope was not found: once in lower case, then
-- among the wildcards of its space. Exact hosts switch this filter off.
function envoy_on_request(handle)
  local headers = handle:headers()
  local scope = headers:get("x-sluice-scope")
  if scope == nil then return end
  local bar = string.find(scope, "|", 1, true)
  local space = string.sub(scope, 1, bar)
  local host = string.sub(scope, bar + 1)
  local lower = string.gsub(string.lower(host), "%.$", "")
  if lower ~= host then
    headers:replace("x-sluice-scope", space .. lower)
    handle:clearRouteCache()
    if handle:streamInfo():routeName() ~= "" then return end
  end
  headers:replace("x-sluice-scope", space .. "_fallback")
  handle:clearRouteCache()
end
