// Package zone plans the cluster's DNS zone: a pure function from a step of the
// model to an immutable [Zone] whose answers are packed, at a cost in proportion
// to the Services that changed.
//
// The records are those of the Kubernetes DNS specification 1.1.0
// (kubernetes/dns docs/specification.md), and where that is silent those of
// CoreDNS' kubernetes plugin, because that is what clusters have come to rely on.
//
// # Other zones
//
// [Zone.Lookup], [Zone.Transfer] and the tree of names know of no kind of object,
// only of apexes: whose records are below one is the planner's alone. So the zone of
// a set of clusters, clusterset.local of the Multi-Cluster Services API (KEP-1645),
// would be planned here and nowhere else, and be filtered, transferred and answered
// as the cluster's is:
//
//   - its names come with [Options], beside Zones, and their apexes with those of the
//     planner; builder.system gives each its version and its name server;
//   - builder.service has a sibling for a ServiceImport, below these apexes only: its
//     spec.ips are what clusterIP makes records of; an import of type Headless has
//     those of its EndpointSlices, which are found by their label
//     multicluster.kubernetes.io/service-name and whose endpoints are named
//     hostname.cluster.service.namespace.svc.clusterset.local after the slice's label
//     multicluster.kubernetes.io/source-cluster; neither has PTR records;
//   - the switch of [Planner.Update] tells which imports a changed ServiceImport or
//     EndpointSlice is of, and hands their records of before and after to replace.
package zone

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// PodMode says which names of Pods by their address exist, such as
// 1-2-3-4.default.pod.cluster.local.
type PodMode uint8

// The modes, as CoreDNS' kubernetes plugin has them.
const (
	PodsDisabled PodMode = iota // none
	PodsInsecure                // any address, in a namespace that exists
	PodsVerified                // addresses of Pods, in their namespace
)

// ParsePodMode reads "disabled", "insecure" or "verified".
func ParsePodMode(s string) (PodMode, error) {
	switch s {
	case "disabled":
		return PodsDisabled, nil
	case "insecure":
		return PodsInsecure, nil
	case "verified":
		return PodsVerified, nil
	}
	return 0, fmt.Errorf("pod records: expected disabled, insecure or verified, found %q", s)
}

// String returns the mode as [ParsePodMode] reads it.
func (m PodMode) String() string { return [...]string{"disabled", "insecure", "verified"}[m] }

// DefaultTTL is the TTL of cluster names where nothing else is said; it is
// CoreDNS' too.
const DefaultTTL = 5 * time.Second

// maxTTL is the longest TTL that is accepted, as in CoreDNS.
const maxTTL = time.Hour

// Options are what a zone depends on besides the model.
type Options struct {
	// Zones are the names of the cluster's zone, by default cluster.local.
	// PTR records lead to the first.
	Zones []string
	// TTL of all records, by default [DefaultTTL].
	TTL time.Duration
	// Pods says which names of Pods exist.
	Pods PodMode
	// Filter says which of the cluster's names exist, by default all.
	Filter Filter
	// EndpointPodNames gives endpoints without a hostname the name of their
	// Pod, instead of their address with dashes.
	EndpointPodNames bool
	// Nameservers are the addresses under which clients reach this server.
	// Where one is the ClusterIP of a Service, that Service is the zone's NS;
	// otherwise ns.dns.<zone> is, and has these addresses.
	Nameservers []netip.Addr
	// Service is the one whose ClusterIPs lead clients to this server too, if any.
	Service model.Name
	// Node is the one whose clients the zone answers; empty: of all. Services that
	// ask for near endpoints have those of this node or its zone first.
	Node string
	// Now gives the serial number of the zone; by default time.Now.
	Now func() time.Time
}

// ErrZone indicates that the name of a zone cannot be one.
var ErrZone = errors.New("not the name of a zone")

func (o *Options) complete() ([][]byte, error) {
	if len(o.Zones) == 0 {
		o.Zones = []string{"cluster.local"}
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.TTL < 0 || o.TTL > maxTTL {
		return nil, fmt.Errorf("dns: TTL %v: expected 0 to %v", o.TTL, maxTTL)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var apexes [][]byte
	for _, z := range o.Zones {
		name, err := wire.ParseName(z)
		if err != nil {
			return nil, fmt.Errorf("dns: %w: %w", ErrZone, err)
		}
		// Something must be left for a Service, its namespace and a port.
		if len(name) < 2 || len(name) > wire.MaxName/2 {
			return nil, fmt.Errorf("dns: %w: %q", ErrZone, z)
		}
		apexes = append(apexes, wire.AppendLower(nil, name))
	}
	return apexes, nil
}
