package zone

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

func selector(text string) labels.Selector {
	s, err := labels.Parse(text)
	if err != nil {
		panic(err)
	}
	return s
}

// names are what a filter may hide, by a word for each.
var names = map[string]struct {
	name string
	typ  uint16
}{
	"service":     {"web.shop.svc.cluster.local", wire.TypeA},
	"port":        {"_http._tcp.web.shop.svc.cluster.local", wire.TypeSRV},
	"reverse":     {"1.0.20.10.in-addr.arpa", wire.TypePTR},
	"endpoint":    {"172-20-0-1.web.shop.svc.cluster.local", wire.TypeA},
	"ep-reverse":  {"1.0.20.172.in-addr.arpa", wire.TypePTR},
	"headless":    {"db.shop.svc.cluster.local", wire.TypeA},
	"hostname":    {"db-0.db.shop.svc.cluster.local", wire.TypeA},
	"alias":       {"out.shop.svc.cluster.local", wire.TypeCNAME},
	"idle":        {"idle.shop.svc.cluster.local", wire.TypeA},
	"tolerant":    {"early.shop.svc.cluster.local", wire.TypeA},
	"pod":         {"172-20-0-1.shop.pod.cluster.local", wire.TypeA},
	"other":       {"svc1.testns.svc.cluster.local", wire.TypeA},
	"other's pod": {"172-0-0-1.testns.pod.cluster.local", wire.TypeA},
	"dns":         {"kube-dns.kube-system.svc.cluster.local", wire.TypeA},
}

func shop(tx *model.Txn) {
	label := func(s *model.Service, tier string) *model.Service {
		s.Labels = map[string]string{"tier": tier}
		return s
	}
	port := dnstest.Port("http", corev1.ProtocolTCP, 80)
	web := label(dnstest.Service("shop", "web", dnstest.Addrs("10.20.0.1"), port), "front")
	db := label(dnstest.Headless("shop", "db", port), "back")
	early := dnstest.Service("shop", "early", dnstest.Addrs("10.20.0.3"))
	early.PublishNotReady = true
	idle := dnstest.Service("shop", "idle", dnstest.Addrs("10.20.0.2"))
	for _, s := range []*model.Service{web, db, idle, early, label(dnstest.External("shop", "out", "www.example.com"), "front")} {
		model.Services.Put(tx, s)
	}
	model.EndpointSlices.Put(tx, dnstest.Slice(web, "x", dnstest.Ready("172.20.0.1", "")))
	model.EndpointSlices.Put(tx, dnstest.Slice(db, "x", dnstest.Ready("172.20.0.2", "db-0")))
	model.EndpointSlices.Put(tx, dnstest.Slice(idle, "x", dnstest.Unready("172.20.0.3", "")))
	model.EndpointSlices.Put(tx, dnstest.Slice(early, "x", dnstest.Unready("172.20.0.4", "")))
	model.Pods.Put(tx, &model.Pod{Meta: dnstest.Meta("shop", "web-0"), IPs: dnstest.Addrs("172.20.0.1")})
	model.Namespaces.Put(tx, &model.Namespace{Meta: dnstest.Meta("", "shop")})
}

// expectHidden checks that of names just those are hidden, from the root to the
// end: as names that never were.
func expectHidden(t *testing.T, z *Zone, hidden ...string) {
	t.Helper()
	is := map[string]bool{}
	for _, h := range hidden {
		is[h] = true
	}
	for what, n := range names {
		wired, err := wire.ParseName(n.name)
		if err != nil {
			t.Fatal(err)
		}
		want := Success
		if is[what] {
			want = NXDomain
		}
		if a := z.Lookup(wired, n.typ); a.Status != want {
			t.Errorf("%s %s: status %d, want %d", what, n.name, a.Status, want)
		}
	}
}

// TestFilter has each way to hide names, and what it leaves.
func TestFilter(t *testing.T) {
	all := []string{"service", "port", "reverse", "endpoint", "ep-reverse", "headless", "hostname", "alias", "idle", "tolerant", "pod"}
	for name, c := range map[string]struct {
		filter Filter
		hidden []string
	}{
		"nothing":              {Filter{}, nil},
		"other namespaces":     {Filter{Namespaces: []string{"testns"}}, all},
		"this namespace":       {Filter{Namespaces: []string{"shop"}}, []string{"other", "other's pod"}},
		"by name as a label":   {Filter{NamespaceLabels: selector("kubernetes.io/metadata.name in (shop)")}, []string{"other", "other's pod"}},
		"by a label":           {Filter{NamespaceLabels: selector("team=a")}, append([]string{"other", "other's pod"}, all...)},
		"by no label":          {Filter{NamespaceLabels: selector("!team")}, nil},
		"both":                 {Filter{Namespaces: []string{"shop"}, NamespaceLabels: selector("team=a")}, append([]string{"other", "other's pod"}, all...)},
		"Services":             {Filter{Labels: selector("tier=back")}, []string{"service", "port", "reverse", "endpoint", "ep-reverse", "alias", "idle", "tolerant", "other"}},
		"empty Services":       {Filter{EmptyServices: true}, []string{"idle"}},
		"endpoints":            {Filter{NoEndpoints: true}, []string{"endpoint", "ep-reverse", "headless", "hostname"}},
		"endpoints, but empty": {Filter{NoEndpoints: true, EmptyServices: true}, []string{"endpoint", "ep-reverse", "headless", "hostname", "idle"}},
	} {
		t.Run(name, func(t *testing.T) {
			store := dnstest.Cluster()
			store.Update(shop)
			z := plan(t, store, Options{Pods: PodsVerified, Filter: c.filter, Nameservers: []netip.Addr{dnstest.DNSAddress}})
			expectHidden(t, z, c.hidden...)
			ns := z.Lookup(z.apexes[0].name, wire.TypeNS)
			if got := wire.NameString(ns.Records[wire.Pointer+10:]); ns.Count != 1 || got != "kube-dns.kube-system.svc.cluster.local." {
				t.Errorf("name server %s", got)
			}
		})
	}
}

// TestFilterNamespace proves that a namespace shows and hides its Services when its
// labels change, at the cost of these Services and no others.
func TestFilterNamespace(t *testing.T) {
	store := dnstest.Cluster()
	store.Update(shop)
	p, err := NewPlanner(Options{Pods: PodsInsecure, Filter: Filter{NamespaceLabels: selector("team=a")}, Service: model.Name{Namespace: "kube-system", Name: "kube-dns"}})
	if err != nil {
		t.Fatal(err)
	}
	watch := store.Watch()
	defer watch.Stop()
	step := func(labels map[string]string) *Zone {
		t.Helper()
		store.Update(func(tx *model.Txn) {
			meta := dnstest.Meta("", "shop")
			meta.Labels = labels
			model.Namespaces.Put(tx, &model.Namespace{Meta: meta})
		})
		u, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if names := p.revealed(u, "shop"); p.Zone().Ready() && labels["kept"] == "" && len(names) != 2*5 {
			t.Errorf("%d names of Services to look at: %v", len(names), names)
		}
		z, _ := p.Update(u)
		return z
	}
	hidden := []string{"service", "port", "reverse", "endpoint", "ep-reverse", "headless", "hostname", "alias", "idle", "tolerant", "pod", "other", "other's pod"}
	before := step(nil)
	expectHidden(t, before, hidden...)
	shown := step(map[string]string{"team": "a"})
	expectHidden(t, shown, "other", "other's pod")
	expectHidden(t, before, hidden...)
	if same := step(map[string]string{"team": "a", "kept": "yes"}); same.Serial() != shown.Serial() {
		t.Error("a label that nobody asks for makes another zone")
	}
	again := step(map[string]string{"team": "b"})
	expectHidden(t, again, hidden...)
	if again.Len() != before.Len() {
		t.Errorf("%d names, before %d", again.Len(), before.Len())
	}
}
