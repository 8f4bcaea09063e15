package translate

import (
	"fmt"
	"net/netip"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// noMatch names the route that answers what no rule of a host matches.
const noMatch = "no-match"

// exactHost makes the scope of a host that has no wildcard. Its last route
// answers 404, so that a path without a rule is not taken by a wildcard host.
func exactHost(h *route.Host) (delta.Resource, error) {
	vhost, needs, err := virtualHost(h, "*")
	if err != nil {
		return delta.Resource{}, err
	}
	var p packer
	rc := &routev3.RouteConfiguration{
		VirtualHosts: []*routev3.VirtualHost{vhost},
		// The host is found already.
		TypedPerFilterConfig: map[string]*anypb.Any{
			scopeFilter: p.any(&routev3.FilterConfig{Disabled: true}),
		},
	}
	if p.err != nil {
		return delta.Resource{}, p.err
	}
	return scope(h.Space, h.Name, rc, needs)
}

// scope wraps routes in a scope of their own.
func scope(space, host string, rc *routev3.RouteConfiguration, needs []delta.Ref) (delta.Resource, error) {
	key := scopeKey(space, host)
	rc.Name = key
	rc.RequestHeadersToRemove = []string{ScopeHeader, "x-envoy-internal"}
	// The order of delivery sees to it that clusters are there; and one that
	// is meant not to be there, noBackend, must not be refused.
	rc.ValidateClusters = wrapperspb.Bool(false)
	return resource(scopeRef(space, host), &routev3.ScopedRouteConfiguration{
		Name:               key,
		RouteConfiguration: rc,
		Key: &routev3.ScopedRouteConfiguration_Key{
			Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
				Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: key},
			}},
		},
	}, needs...)
}

// virtualHost makes the routes of a host, for the domains that are given.
func virtualHost(h *route.Host, domains ...string) (*routev3.VirtualHost, []delta.Ref, error) {
	if err := checkHost(h); err != nil {
		return nil, nil, err
	}
	b := &builder{}
	out := &routev3.VirtualHost{
		Name:        h.Name,
		Domains:     domains,
		Routes:      make([]*routev3.Route, 0, len(h.Rules)+1),
		RetryPolicy: b.retries(),
	}
	for i := range h.Rules {
		r, err := b.rule(&h.Rules[i])
		if err != nil {
			return nil, nil, fmt.Errorf("host %s, rule %q: %w", h.Name, h.Rules[i].Name, err)
		}
		out.Routes = append(out.Routes, r)
	}
	if b.err != nil {
		return nil, nil, fmt.Errorf("host %s: %w", h.Name, b.err)
	}
	out.Routes = append(out.Routes, respond(noMatch, 404))
	if err := out.ValidateAll(); err != nil {
		return nil, nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return out, b.needs, nil
}

// respond is a route that answers all by itself.
func respond(name string, code uint32) *routev3.Route {
	return &routev3.Route{
		Name:   name,
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: code}},
	}
}

// checkHost returns why a host's name or space cannot be.
func checkHost(h *route.Host) error {
	if err := checkSpace(h.Space); err != nil {
		return err
	}
	name := strings.TrimPrefix(h.Name, "*.")
	switch {
	case h.Name == "*":
		return nil
	case name == "", name != strings.ToLower(name), strings.ContainsAny(name, "*/|;? \t"):
		return fmt.Errorf("%q is not the name of a host", h.Name)
	}
	if strings.Contains(name, ":") {
		// Envoy keeps an IPv6 address in its brackets.
		addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
		if err != nil || name != "["+addr.String()+"]" {
			return fmt.Errorf("%q is not the name of a host", h.Name)
		}
	}
	return nil
}

// checkSpace returns why a space cannot be part of a scope's key.
func checkSpace(space string) error {
	if space == "" || strings.ContainsAny(space, scopeSeparator+";% \t\r\n") {
		return fmt.Errorf("%q is not the name of a space of hosts", space)
	}
	return nil
}

// builder makes routes and gathers what they need.
type builder struct {
	packer
	needs []delta.Ref
}

func (b *builder) need(cluster string) { b.needs = append(b.needs, clusterRef(cluster)) }

// retries sends a request again that never reached an endpoint: the connection
// could not be made, or was closed before the request was sent on it, as
// happens on a kept connection to an endpoint that goes away.
func (b *builder) retries() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    "connect-failure,refused-stream,reset-before-request",
		NumRetries: wrapperspb.UInt32(2),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: b.any(&previousv3.PreviousHostsPredicate{}),
			},
		}},
		HostSelectionRetryMaxAttempts: 3,
	}
}
