// Package translate turns route's resources into Envoy's, purely: the same
// resources make the same bytes, and their hash is the version. What Envoy
// would refuse is an error here, so that it reaches the user with a reason and
// no proxy at all.
//
// The layout follows what stock Envoy does fast: a listener never changes with
// the routes; each exact host has its own scope with its routes inside it;
// the wildcard hosts of a space share one scope, which is asked for only when
// no exact host was found.
package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// Names that proxies see, beside those of the resources.
const (
	// ScopeHeader carries a request's space and host inside Envoy. What a
	// client sends under that name is overwritten, and backends never see it.
	ScopeHeader = "x-sluice-scope"
	// scopeSeparator stands between the two. A space must not have it, so
	// what comes before the first one is never the client's.
	scopeSeparator = "|"
	// fallbackHost is the host of the scope of a space's wildcards.
	fallbackHost = "_fallback"

	// InboundCluster and OutboundCluster send a sidecar's connections on to
	// where they were addressed.
	InboundCluster  = "inbound/original-dst"
	OutboundCluster = "outbound/original-dst"

	// meshMatch marks endpoints that speak mutual TLS.
	meshMatch = "mesh"
)

// message is a resource of Envoy's: it can check itself.
type message interface {
	proto.Message
	ValidateAll() error
}

// Translate returns Envoy's resources for one of route's. A wildcard host has
// none of its own: the hosts of a space share one, which a [Translator] makes.
func Translate(r route.Resource) ([]delta.Resource, error) {
	switch r := r.(type) {
	case *route.Secret:
		return one(secret(r))
	case *route.Cluster:
		return one(cluster(r))
	case *route.Endpoints:
		return one(endpoints(r))
	case *route.Listener:
		return listener(r)
	case *route.Host:
		if wildcard(r.Name) {
			return nil, fmt.Errorf("the wildcard host %s shares a scope with the others of its space", r.Name)
		}
		return one(exactHost(r))
	}
	return nil, fmt.Errorf("unknown kind of resource %T", r)
}

func one(r delta.Resource, err error) ([]delta.Resource, error) {
	if err != nil {
		return nil, err
	}
	return []delta.Resource{r}, nil
}

// resource checks, marshals and names a message.
func resource(ref delta.Ref, m message, needs ...delta.Ref) (delta.Resource, error) {
	if err := m.ValidateAll(); err != nil {
		return delta.Resource{}, err
	}
	body, err := pack(m)
	if err != nil {
		return delta.Resource{}, err
	}
	sum := sha256.Sum256(body.Value)
	slices.SortFunc(needs, func(a, b delta.Ref) int {
		if c := strings.Compare(a.TypeURL, b.TypeURL); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return delta.Resource{
		Ref:     ref,
		Body:    body,
		Version: hex.EncodeToString(sum[:8]),
		Needs:   slices.Compact(needs),
	}, nil
}

// pack marshals deterministically into an Any.
func pack(m proto.Message) (*anypb.Any, error) {
	body := &anypb.Any{}
	if err := anypb.MarshalFrom(body, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, err
	}
	return body, nil
}

// packer packs several messages and keeps the first error, so that a tree of
// them can be written as one expression.
type packer struct{ err error }

func (p *packer) any(m message) *anypb.Any {
	if err := m.ValidateAll(); err != nil && p.err == nil {
		p.err = err
	}
	body, err := pack(m)
	if err != nil && p.err == nil {
		p.err = err
	}
	return body
}

func clusterRef(name string) delta.Ref   { return delta.Ref{TypeURL: delta.ClusterType, Name: name} }
func endpointsRef(name string) delta.Ref { return delta.Ref{TypeURL: delta.EndpointsType, Name: name} }
func secretRef(name string) delta.Ref    { return delta.Ref{TypeURL: delta.SecretType, Name: name} }
func listenerRef(name string) delta.Ref  { return delta.Ref{TypeURL: delta.ListenerType, Name: name} }
func scopeRef(space, host string) delta.Ref {
	return delta.Ref{TypeURL: delta.ScopedRouteType, Name: scopeKey(space, host)}
}

// scopeKey is what a request's scope header must be for the scope to be taken,
// up to the first colon, which is where Envoy cuts the port off. It is the
// scope's name as well.
func scopeKey(space, host string) string {
	return strings.ReplaceAll(space+scopeSeparator+host, ":", ";")
}

// wildcard reports whether a host stands for others.
func wildcard(name string) bool { return strings.HasPrefix(name, "*") }

// adsSource takes what refers to it from the ADS stream.
func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}
