package zone

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

var update = flag.Bool("update", false, "write the golden files")

func at(seconds int64) func() time.Time {
	return func() time.Time { return time.Unix(seconds, 0) }
}

// plan returns the zone of everything in the store, planned at once.
func plan(t testing.TB, store *model.Store, o Options) *Zone {
	t.Helper()
	if o.Now == nil {
		o.Now = at(1700000000)
	}
	p, err := NewPlanner(o)
	if err != nil {
		t.Fatal(err)
	}
	w := store.Watch()
	defer w.Stop()
	u, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	z, _ := p.Update(u)
	return z
}

// TestGolden compares whole zones as master files, and has miekg/dns read them.
func TestGolden(t *testing.T) {
	for name, o := range map[string]Options{
		"cluster": {Nameservers: []netip.Addr{dnstest.DNSAddress}},
		"options": {
			Zones: []string{"Cluster.Example", "other.example."}, TTL: 30 * time.Second, Pods: PodsVerified,
			EndpointPodNames: true, Nameservers: dnstest.Addrs("169.254.20.10", "fd00:20::10"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := dnstest.Cluster()
			store.Update(func(tx *model.Txn) {
				crowd := model.Services.Key(dnstest.Headless("testns", "crowd"))
				tx.Delete(crowd) // only makes the file long
				pod := dnstest.Ready("172.4.0.1", "")
				pod.Pod = "web-0"
				svc := dnstest.Headless("pods", "web", dnstest.Port("http", corev1.ProtocolTCP, 80))
				model.Services.Put(tx, svc)
				model.EndpointSlices.Put(tx, dnstest.Slice(svc, "x", pod))
			})
			got := plan(t, store, o).String()
			path := filepath.Join("testdata", name+".zone")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Error(diff)
			}
			parser := dns.NewZoneParser(strings.NewReader(got), "", path)
			records := 0
			for _, ok := parser.Next(); ok; _, ok = parser.Next() {
				records++
			}
			if err := parser.Err(); err != nil || records < 50 {
				t.Errorf("%d records, %v", records, err)
			}
		})
	}
}

// walker changes a store at random.
type walker struct {
	*rand.Rand
	store *model.Store
}

func (w *walker) addr() netip.Addr {
	if w.IntN(4) == 0 {
		return netip.MustParseAddr(fmt.Sprintf("fd00::%x", w.IntN(20)))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", w.IntN(20)))
}

func (w *walker) service(ns, name string) *model.Service {
	var ports []model.ServicePort
	for _, p := range []model.ServicePort{dnstest.Port("", corev1.ProtocolTCP, 1), dnstest.Port("a", corev1.ProtocolTCP, 80), dnstest.Port("b", corev1.ProtocolUDP, 80)} {
		if w.IntN(2) == 0 {
			ports = append(ports, p)
		}
	}
	switch w.IntN(4) {
	case 0:
		s := dnstest.Headless(ns, name, ports...)
		s.PublishNotReady = w.IntN(3) == 0
		return s
	case 1:
		return dnstest.External(ns, name, []string{"www.example.com", "1.2.3.4", "b.n1.svc.cluster.local", "..", strings.Repeat("x", 70)}[w.IntN(5)])
	}
	var ips []netip.Addr
	for range w.IntN(3) {
		ips = append(ips, w.addr())
	}
	return dnstest.Service(ns, name, ips, ports...)
}

func (w *walker) slice(ns, name string) *model.EndpointSlice {
	var eps []model.Endpoint
	for range w.IntN(6) {
		ep := dnstest.Ready(w.addr().String(), []string{"", "", "h", "i"}[w.IntN(4)])
		ep.Ready = w.IntN(4) > 0
		if w.IntN(5) == 0 {
			ep.Rare = &model.RareEndpoint{Hostname: ep.Hostname(), MoreAddrs: []netip.Addr{w.addr()}}
		}
		eps = append(eps, ep)
	}
	ports := []model.ServicePort{dnstest.Port("a", corev1.ProtocolTCP, 80), dnstest.Port("", corev1.ProtocolTCP, 1)}
	return dnstest.Slice(dnstest.Headless(ns, name, ports[:w.IntN(3)]...), []string{"x", "y"}[w.IntN(2)], eps...)
}

func (w *walker) step(tx *model.Txn) {
	ns, name := []string{"n1", "n2"}[w.IntN(2)], []string{"a", "b", "c"}[w.IntN(3)]
	svc, slice := w.service(ns, name), w.slice(ns, name)
	svc.Labels = map[string]string{"tier": []string{"front", "back"}[w.IntN(2)]}
	switch w.IntN(7) {
	case 0, 1:
		model.Services.Put(tx, svc)
	case 2, 3:
		model.EndpointSlices.Put(tx, slice)
	case 4:
		tx.Delete(model.Services.Key(svc))
	case 5:
		tx.Delete(model.EndpointSlices.Key(slice))
	case 6:
		o := &model.Namespace{Meta: dnstest.Meta("", ns)}
		if w.IntN(2) == 0 {
			o.Labels = map[string]string{"team": "a"}
		}
		if w.IntN(2) == 0 {
			model.Namespaces.Put(tx, o)
		} else {
			tx.Delete(model.Namespaces.Key(o))
		}
	}
}

// walkFilters are what the walks hide.
var walkFilters = []Filter{
	{},
	{Namespaces: []string{"n2"}, EmptyServices: true},
	{NamespaceLabels: selector("team=a")},
	{},
	{NamespaceLabels: selector("team notin (a)"), Labels: selector("tier=front")},
	{NoEndpoints: true},
}

// TestWalk proves that a zone that was changed step by step is the one that is
// planned at once, entry by entry, and that old ones do not change.
func TestWalk(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &walker{rand.New(rand.NewPCG(seed, 1)), model.NewStore()}
			o := Options{Pods: PodMode(seed % 3), Nameservers: dnstest.Addrs("10.0.0.3", "10.0.0.4"), Service: model.Name{Namespace: "n1", Name: "a"}, Now: at(1700000000), Filter: walkFilters[seed/3%uint64(len(walkFilters))]}
			p, err := NewPlanner(o)
			if err != nil {
				t.Fatal(err)
			}
			watch := w.store.Watch()
			defer watch.Stop()
			w.store.Update(dnstest.Synced)
			problems := map[model.Key]string{}
			type kept struct {
				zone *Zone
				text string
			}
			var old []kept
			for range 60 {
				w.store.Update(func(tx *model.Txn) {
					for range 1 + w.IntN(3) {
						w.step(tx)
					}
					// Without any change there is nothing to wait for.
					model.ConfigMaps.Put(tx, &model.ConfigMap{Meta: dnstest.Meta("n1", "marker")})
				})
				if w.IntN(3) == 0 { // a slow planner sees several at once
					continue
				}
				u, err := watch.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				z, findings := p.Update(u)
				for _, f := range findings {
					if problems[f.Key] = f.Reason; f.Reason == "" {
						delete(problems, f.Key)
					}
				}
				once := plan(t, w.store, o)
				if diff := cmp.Diff(dump(once), dump(z)); diff != "" {
					t.Fatalf("planned at once (-) and by steps (+):\n%s", diff)
				}
				if z.Len() != len(slices.Collect(z.tree.all())) {
					t.Fatalf("%d names, counted %d", len(slices.Collect(z.tree.all())), z.Len())
				}
				old = append(old, kept{z, dump(z)})
			}
			for i, k := range old {
				if dump(k.zone) != k.text {
					t.Errorf("zone %d was changed afterwards", i)
				}
			}
			for svc := range model.Services.All(p.Zone().Model()) {
				bad := svc.Type == corev1.ServiceTypeExternalName && !strings.Contains(svc.ExternalName, "le.com") && !strings.Contains(svc.ExternalName, "local")
				bad = bad && !p.hides(p.Zone().Model(), svc)
				if (problems[model.Services.Key(svc)] != "") != bad {
					t.Errorf("%s to %q: said %q", svc.Name, svc.ExternalName, problems[model.Services.Key(svc)])
				}
			}
			// All that goes away leaves nothing behind.
			w.store.Update(func(tx *model.Txn) {
				model.ConfigMaps.Put(tx, &model.ConfigMap{Meta: dnstest.Meta("n1", "marker")})
				for _, kind := range []model.KindID{model.KindService, model.KindEndpointSlice, model.KindNamespace} {
					for key := range w.store.Snapshot().Keys(kind) {
						tx.Delete(key)
					}
				}
			})
			u, err := watch.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			z, _ := p.Update(u)
			if diff := cmp.Diff(dump(p.Zone()), dump(plan(t, w.store, o))); diff != "" || z.Len() > 7 || z.pointers.Len() > 0 {
				t.Errorf("%d names are left: %s", z.Len(), diff)
			}
		})
	}
}

// dump shows every entry, with its reasons to exist, but not the serial number.
func dump(z *Zone) string {
	entries := slices.SortedFunc(z.tree.all(), func(a, b *entry) int { return compareNames(a.name(), b.name()) })
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s refs=%d %x\n", wire.NameString(e.name()), e.refs, e.sets())
	}
	for p := range z.pointers.All() {
		fmt.Fprintf(&b, "%v %q\n", netip.AddrFrom16(p.addr), *p.service)
	}
	return b.String()
}

// TestService proves that the zone's name server is the DNS Service that leads to
// this server, with the ClusterIPs that it has at the moment.
func TestService(t *testing.T) {
	store := dnstest.Cluster()
	p, err := NewPlanner(Options{Nameservers: dnstest.Addrs("169.254.20.10"), Service: model.Name{Namespace: "kube-system", Name: "kube-dns"}})
	if err != nil {
		t.Fatal(err)
	}
	watch := store.Watch()
	defer watch.Stop()
	check := func(server string, addrs ...string) {
		t.Helper()
		u, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		z, _ := p.Update(u)
		ns := z.Lookup(below(z.apexes[0].name), wire.TypeNS)
		if ns.Count != 1 || wire.NameString(ns.Records[wire.Pointer+10:]) != server {
			t.Errorf("%d name servers, %q, want %s", ns.Count, ns.Records, server)
		}
		a := z.Lookup(below(z.apexes[0].name, "ns", "dns"), wire.TypeA)
		var got []string
		for rrs := a.Records; len(rrs) > 0; rrs = rrs[wire.PackedLen(rrs):] {
			got = append(got, netip.AddrFrom4([4]byte(rrs[wire.Pointer+10:])).String())
		}
		if slices.Sort(got); !slices.Equal(got, addrs) {
			t.Errorf("addresses %v, want %v", got, addrs)
		}
	}
	check("kube-dns.kube-system.svc.cluster.local.", "10.96.0.10", "169.254.20.10")
	svc := dnstest.Service("kube-system", "kube-dns", dnstest.Addrs("10.96.0.11"))
	store.Update(func(tx *model.Txn) { model.Services.Put(tx, svc) })
	check("kube-dns.kube-system.svc.cluster.local.", "10.96.0.11", "169.254.20.10")
	store.Update(func(tx *model.Txn) { tx.Delete(model.Services.Key(svc)) })
	check("ns.dns.cluster.local.", "169.254.20.10")
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Zones: []string{"."}}, {Zones: []string{"a..b"}}, {Zones: []string{strings.Repeat("x.", 90)}}, {TTL: 2 * time.Hour}, {TTL: -1}} {
		if _, err := NewPlanner(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	for _, m := range []PodMode{PodsDisabled, PodsInsecure, PodsVerified} {
		if got, err := ParsePodMode(m.String()); got != m || err != nil {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	if _, err := ParsePodMode("on"); err == nil {
		t.Error("any word is a mode")
	}
}

// TestLongNames has names that only just fit, and some that do not.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("x", 63)
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		svc := dnstest.Headless(long, long, dnstest.Port(strings.Repeat("p", 15), corev1.ProtocolSCTP, 80))
		model.Services.Put(tx, svc)
		model.EndpointSlices.Put(tx, dnstest.Slice(svc, "x", dnstest.Ready("10.0.0.1", strings.Repeat("h", 63)), dnstest.Ready("10.0.0.2", "h"), dnstest.Ready("10.0.0.3", strings.Repeat("h", 64))))
		dnstest.Synced(tx)
	})
	z := plan(t, store, Options{Zones: []string{strings.Repeat("z", 61)}})
	for e := range z.tree.all() {
		if len(e.name()) > wire.MaxName {
			t.Errorf("name of %d octets", len(e.name()))
		}
	}
	if a := z.Lookup(below(z.apexes[0].name, "h", long, long, "svc"), wire.TypeA); a.Count != 1 {
		t.Errorf("the short hostname: %+v", a)
	}
}

// FuzzLookup has a zone asked for anything.
func FuzzLookup(f *testing.F) {
	zones := []*Zone{plan(f, dnstest.Cluster(), Options{Pods: PodsVerified}), plan(f, dnstest.Cluster(), Options{Pods: PodsInsecure, Zones: []string{"cluster.local", "sub.cluster.local"}})}
	for _, name := range []string{"svc1.testns.svc.cluster.local", "_http._tcp.svc1.testns.svc.cluster.local", "http.tcp.svc1.testns.svc.cluster.local", "1-2-3-4.testns.pod.cluster.local", "1.0.0.10.in-addr.arpa", "."} {
		n, err := wire.ParseName(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire.AppendQuery(nil, 0, 0, n, wire.TypeA, false, false))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var q wire.Query
		if q.Parse(msg, true) != wire.Answer {
			return
		}
		for _, z := range zones {
			a := z.Lookup(q.Name, q.Type)
			n := 0
			for rrs := a.Records; len(rrs) > 0; rrs = rrs[wire.PackedLen(rrs):] {
				n++
			}
			if n != a.Count || (a.Count > 0) != (a.Status == Success || a.Status == Alias) {
				t.Errorf("%s: %d records, %+v", wire.NameString(q.Name), n, a)
			}
			if a.Status != Elsewhere && !bytes.HasSuffix(q.Name, q.Name[len(q.Name)-a.Apex:]) {
				t.Errorf("%s: apex %d", wire.NameString(q.Name), a.Apex)
			}
			z.Origin(q.Name)
		}
	})
}
