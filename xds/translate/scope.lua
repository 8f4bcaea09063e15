-- Looks a host up again whose scope was not found: first as scopes spell it, in
-- lower case, without port and final dot, with semicolons for an IPv6 address's
-- colons; then among the wildcards of its space. Exact hosts switch this filter
-- off.
function envoy_on_request(handle)
  local headers = handle:headers()
  local scope = headers:get("x-sluice-scope")
  if scope == nil then return end
  local bar = string.find(scope, "|", 1, true)
  local space = string.sub(scope, 1, bar)
  local host = string.lower(string.sub(scope, bar + 1))
  host = string.match(host, "^%[.*%]") or string.gsub(host, ":%d*$", "")
  host = string.gsub(string.gsub(host, "%.$", ""), ":", ";")
  if space .. host ~= string.match(scope, "^[^:]*") then
    headers:replace("x-sluice-scope", space .. host)
    handle:clearRouteCache()
    handle:metadata() -- has Envoy look the route up
    if handle:streamInfo():routeName() ~= "" then return end
  end
  headers:replace("x-sluice-scope", space .. "_fallback")
  handle:clearRouteCache()
end
