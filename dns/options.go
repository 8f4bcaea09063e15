// Package dns is the name server of a node. It answers the cluster's names from
// the model, so that they are never stale and need nobody else, and forwards and
// caches all others.
//
// A query is answered by the loop that received it, from records that were packed
// before, without allocating; only what has to be asked of another server leaves
// the loop.
package dns

import (
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/ratelimit"
	"github.com/sluicenet/sluice/dns/zone"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// Options are what a server is made of. Store and Listen are needed, all else has
// a default.
type Options struct {
	// Store is where the cluster's names come from.
	Store *model.Store
	// Listen are the addresses to answer on, over UDP and TCP. One that the
	// machine does not have yet is bound nevertheless and answers as soon as
	// it has. A port of 0 picks a free one; see [Server.Addrs].
	Listen []netip.AddrPort
	// Addresses are further ones under which clients reach this server. They only
	// name it in the zone's NS records, as do the ClusterIPs of Service: the
	// cluster's DNS Service, where its clients are led here.
	Addresses []netip.Addr
	Service   model.Name

	// Internal are like Listen, but no client knows these addresses: rules lead
	// there that are made for this server.
	Internal []netip.AddrPort
	// Probers are local addresses from which the server is asked whether its
	// loops are alive: it sends back datagrams from there that are too short to
	// be DNS messages.
	Probers []netip.Addr

	Zones            []string      // the cluster's, by default cluster.local
	TTL              time.Duration // of cluster names, by default [zone.DefaultTTL]; negative: 0
	Pods             zone.PodMode
	EndpointPodNames bool        // see [zone.Options]
	Filter           zone.Filter // of the cluster's names, by default none are hidden
	// Transfer are the clients that may have whole zones of the cluster transferred
	// (RFC 5936); by default nobody.
	Transfer []netip.Prefix

	// Forward says whom to ask for all other names. Self and Log need not be set.
	Forward forward.Options
	// ResolvConf is a file to take the servers of the root zone from, where
	// Forward has none for it. It is read again when it changes.
	ResolvConf string
	Cache      cache.Options
	// Lives are shorter lives of the answers of some zones than the cache's.
	Lives []Life
	// KeepSubnet passes the Client Subnet option of clients on to upstreams, and
	// keeps answers for each subnet apart (RFC 7871). Otherwise upstreams are told
	// nothing of clients.
	KeepSubnet bool
	Hosts      Hosts
	Rewrites   []Rewrite
	// Autopath answers the first name of a Pod's search path with the first of the
	// path that exists (see package autopath), for the Pods of Node. Search are the
	// domains that the host adds to the path; nil: those of ResolvConf.
	Autopath bool
	Node     string
	Search   []string

	TLS TLS
	// RateLimit is how much one client may ask; without PerSecond as much as it
	// likes.
	RateLimit ratelimit.Options
	// Tap is told of every query; without Socket there is none.
	Tap dnstap.Options
	// LogEvery logs one of so many queries; 0: none.
	LogEvery int
	// CoreDNSMetrics adds metrics under CoreDNS' names, for its dashboards.
	CoreDNSMetrics bool

	Status *status.Board // where what is wrong with a Service is said; nil: only logged
	Log    *slog.Logger  // by default slog.Default

	Sockets        int           // UDP sockets an address, by default one a core
	MaxConnections int           // over TCP, by default 1,024
	MaxPerClient   int           // of these of one client, by default 128
	IdleTimeout    time.Duration // of TCP connections, by default 10 s (RFC 7766 §6.2.3)
	MaxUpstream    int           // queries to the servers of one zone at a time, by default 512
	Drain          time.Duration // for what is under way at the end, by default 5 s
}

// The defaults that are not those of another package.
const (
	defaultConnections = 1024
	defaultPerClient   = 128
	defaultIdle        = 10 * time.Second
	defaultUpstream    = 512
	defaultDrain       = 5 * time.Second
)

func (o *Options) complete() error {
	if o.Store == nil {
		return errors.New("dns: no store to take names from")
	}
	if len(o.Listen) == 0 {
		return errors.New("dns: no address to listen on")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	setDefault(&o.Sockets, runtime.GOMAXPROCS(0))
	setDefault(&o.MaxConnections, defaultConnections)
	setDefault(&o.MaxPerClient, defaultPerClient)
	setDefault(&o.IdleTimeout, defaultIdle)
	setDefault(&o.MaxUpstream, defaultUpstream)
	setDefault(&o.Drain, defaultDrain)
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var none T
	if *field == none {
		*field = value
	}
}

// nameservers returns the addresses that the zone's NS record leads to.
func (o *Options) nameservers() []netip.Addr {
	addrs := slices.Clone(o.Addresses)
	for _, l := range o.Listen {
		if !l.Addr().IsUnspecified() {
			addrs = append(addrs, l.Addr())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

func (o *Options) zoneOptions() zone.Options {
	ttl := o.TTL
	if ttl < 0 {
		ttl = 1 // too little to count in a record, where 0 would be the default
	}
	return zone.Options{
		Zones: o.Zones, TTL: ttl, Pods: o.Pods, EndpointPodNames: o.EndpointPodNames, Filter: o.Filter,
		Nameservers: o.nameservers(), Service: o.Service, Node: o.Node,
	}
}

// forwardOptions returns what the forwarder works with, given the addresses that
// are listened on.
func (o *Options) forwardOptions(listen []netip.AddrPort) forward.Options {
	f := o.Forward
	f.Log = o.Log
	f.Self = slices.Concat(f.Self, listen)
	for _, a := range o.Addresses {
		f.Self = append(f.Self, netip.AddrPortFrom(a, 53))
	}
	if o.followsResolvConf() {
		// It keeps its place and its policy; its servers come later.
		i := slices.IndexFunc(f.Zones, isRoot)
		if i < 0 {
			f.Zones = append(slices.Clone(f.Zones), forward.Zone{Name: "."})
		}
	}
	// Each may be asked of two servers. One zone's must not be all that there is room for.
	setDefault(&f.MaxQueries, 2*o.MaxUpstream*max(1, len(f.Zones)))
	return f
}

// followsResolvConf reports whether the root's servers are those of a resolv.conf.
func (o *Options) followsResolvConf() bool {
	return o.ResolvConf != "" && !slices.ContainsFunc(o.Forward.Zones, func(z forward.Zone) bool { return isRoot(z) && len(z.Servers) > 0 })
}

func isRoot(z forward.Zone) bool { return z.Name == "." || z.Name == "" }
