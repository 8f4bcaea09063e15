package translate

import (
	"errors"
	"fmt"
	"math"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/sluicenet/sluice/route"
)

// noBackend is a cluster that does not exist. What goes there is answered 500,
// as the Gateway API asks for a reference that leads nowhere.
const noBackend = "no-backend"

// rule makes one route.
func (b *builder) rule(r *route.Rule) (*routev3.Route, error) {
	if r.Name == "" {
		return nil, errors.New("it has no name")
	}
	if r.Timeout < 0 {
		return nil, fmt.Errorf("the timeout %s is negative", r.Timeout)
	}
	m, err := match(&r.Match)
	if err != nil {
		return nil, err
	}
	out := &routev3.Route{Name: r.Name, Match: m}
	actions := 0
	if r.Redirect != nil {
		actions++
		action, err := redirect(r)
		if err != nil {
			return nil, err
		}
		out.Action = &routev3.Route_Redirect{Redirect: action}
	}
	if r.Respond != nil {
		actions++
		out.Action = &routev3.Route_DirectResponse{DirectResponse: directResponse(uint32(r.Respond.Code), r.Respond.Body)}
	}
	if len(r.Backends) > 0 {
		actions++
		if err := b.forward(out, r); err != nil {
			return nil, err
		}
	}
	if actions != 1 {
		return nil, fmt.Errorf("%d of backends, redirect and response are set, not one", actions)
	}
	request, err := edits(r.Request)
	if err != nil {
		return nil, err
	}
	response, err := edits(r.Response)
	if err != nil {
		return nil, err
	}
	out.RequestHeadersToAdd, out.RequestHeadersToRemove = request.add, request.remove
	out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = response.add, response.remove
	return out, nil
}

func directResponse(code uint32, body string) *routev3.DirectResponseAction {
	out := &routev3.DirectResponseAction{Status: code}
	if body != "" {
		out.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: body}}
	}
	return out
}

// forward sends a rule's requests to its backends. Without a share for any of
// them, or with no backend that exists, the answer is 500.
func (b *builder) forward(out *routev3.Route, r *route.Rule) error {
	shares := make([]route.Backend, 0, len(r.Backends))
	exists := false
	var total uint64
	for _, share := range r.Backends {
		if share.Weight == 0 {
			continue
		}
		if total += uint64(share.Weight); total > math.MaxUint32 {
			return fmt.Errorf("the sum of the weights is over %d", uint32(math.MaxUint32))
		}
		exists = exists || share.Cluster != ""
		shares = append(shares, share)
	}
	if !exists {
		out.Action = &routev3.Route_DirectResponse{DirectResponse: directResponse(500, "")}
		return nil
	}
	action := &routev3.RouteAction{
		// Envoy's default of 15 s is nothing that anybody asked for.
		Timeout:                     durationpb.New(r.Timeout),
		ClusterNotFoundResponseCode: routev3.RouteAction_INTERNAL_SERVER_ERROR,
	}
	if err := rewrite(action, r); err != nil {
		return err
	}
	if only := shares[0]; len(shares) == 1 && plain(only) {
		b.need(only.Cluster)
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: only.Cluster}
		out.Action = &routev3.Route_Route{Route: action}
		return nil
	}
	clusters := make([]*routev3.WeightedCluster_ClusterWeight, 0, len(shares))
	for _, share := range shares {
		weighted, err := b.share(share)
		if err != nil {
			return err
		}
		clusters = append(clusters, weighted)
	}
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{
		WeightedClusters: &routev3.WeightedCluster{Clusters: clusters},
	}
	out.Action = &routev3.Route_Route{Route: action}
	return nil
}

// plain reports whether a share does nothing to the headers.
func plain(s route.Backend) bool { return s.Request.Empty() && s.Response.Empty() }

// share makes one of several weighted clusters.
func (b *builder) share(s route.Backend) (*routev3.WeightedCluster_ClusterWeight, error) {
	out := &routev3.WeightedCluster_ClusterWeight{Name: s.Cluster, Weight: wrapperspb.UInt32(s.Weight)}
	if s.Cluster == "" {
		out.Name = noBackend
		return out, nil
	}
	b.need(s.Cluster)
	request, err := edits(s.Request)
	if err != nil {
		return nil, err
	}
	response, err := edits(s.Response)
	if err != nil {
		return nil, err
	}
	out.RequestHeadersToAdd, out.RequestHeadersToRemove = request.add, request.remove
	out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = response.add, response.remove
	if request.host != "" {
		out.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: request.host}
	}
	return out, nil
}
