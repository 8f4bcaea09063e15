package translate_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/translate"
)

// world is what the changes of a translator add up to: versions by group and
// resource.
type world map[string]string

func (w world) apply(changes []translate.Change) {
	for _, c := range changes {
		key := c.Group + " " + kind(c.Ref) + " " + c.Ref.Name
		if c.Resource == nil {
			delete(w, key)
		} else {
			w[key] = c.Resource.Version
		}
	}
}

// describe prints changes, one a line.
func describe(changes []translate.Change) string {
	var lines []string
	for _, c := range changes {
		verb := "set"
		if c.Resource == nil {
			verb = "remove"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s", verb, kind(c.Ref), c.Ref.Name))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func wild(name, cluster string) *route.Host {
	return &route.Host{Space: "gw", Name: name, Rules: []route.Rule{to("all", cluster)}}
}

func TestTranslator(t *testing.T) {
	tr := translate.New()
	shop := model.Key{Kind: model.KindHTTPRoute, Namespace: "default", Name: "shop"}
	step := func(name, want string, changes ...route.Change) []translate.Change {
		t.Helper()
		made, failures := tr.Apply(changes)
		if got := describe(made); got != want || len(failures) > 0 {
			t.Errorf("%s: got\n%s\n%v\nwant\n%s", name, got, failures, want)
		}
		return made
	}
	outbound := func(ports ...uint16) *route.Listener {
		return &route.Listener{Name: "out", Outbound: &route.Outbound{Port: 15001, Space: "m", HTTPPorts: ports}}
	}

	made := step("a wildcard and an exact host", "set ScopedRouteConfiguration gw|_fallback\nset ScopedRouteConfiguration gw|a.example.com",
		route.Set(gateways, wild("*.example.com", "one"), shop), route.Set(gateways, wild("a.example.com", "one")))
	for _, c := range made {
		if c.Ref.Name == "gw|_fallback" && (!slices.Equal(c.Origins, []model.Key{shop}) || len(c.Sources) != 1) {
			t.Errorf("the fallback scope comes of %v, %v", c.Origins, c.Sources)
		}
	}
	made = step("another wildcard", "set ScopedRouteConfiguration gw|_fallback", route.Set(gateways, wild("*", "two")))
	golden(t, "fallback", text(t, *made[0].Resource))
	step("one wildcard removed", "set ScopedRouteConfiguration gw|_fallback", route.Remove(gateways, route.KindHost, "gw/*.example.com"))
	step("the last removed", "remove ScopedRouteConfiguration gw|_fallback", route.Remove(gateways, route.KindHost, "gw/*"))
	step("removed again", "", route.Remove(gateways, route.KindHost, "gw/*"))
	step("the exact host removed", "remove ScopedRouteConfiguration gw|a.example.com", route.Remove(gateways, route.KindHost, "gw/a.example.com"))
	step("others removed", "remove Cluster c\nremove ClusterLoadAssignment c\nremove Secret s",
		route.Remove(gateways, route.KindCluster, "c"), route.Remove(gateways, route.KindEndpoints, "c"), route.Remove(gateways, route.KindSecret, "s"))

	step("outbound", "set Cluster outbound/original-dst\nset Listener out\nset Listener out/80\nset Listener out/81\n"+
		"set ScopedRouteConfiguration m;80|_fallback\nset ScopedRouteConfiguration m;81|_fallback", route.Set(route.MeshGroup, outbound(80, 81)))
	step("a port less and one more", "remove Listener out/80\nremove ScopedRouteConfiguration m;80|_fallback\nset Cluster outbound/original-dst\nset Listener out\n"+
		"set Listener out/81\nset Listener out/82\nset ScopedRouteConfiguration m;82|_fallback", route.Set(route.MeshGroup, outbound(81, 82)))
	step("no outbound", "remove Cluster outbound/original-dst\nremove Listener out\nremove Listener out/81\nremove Listener out/82\n"+
		"remove ScopedRouteConfiguration m;81|_fallback\nremove ScopedRouteConfiguration m;82|_fallback", route.Remove(route.MeshGroup, route.KindListener, "out"))
}

// TestFailures checks that what does not translate leaves all else alone, and
// its own last good version too.
func TestFailures(t *testing.T) {
	tr := translate.New()
	w := world{}
	made, _ := tr.Apply([]route.Change{route.Set(gateways, wild("*.example.com", "one")), route.Set(gateways, wild("a.example.com", "one"))})
	w.apply(made)
	before := maps.Clone(w)

	broken := func(name string) *route.Host {
		h := wild(name, "one")
		h.Rules[0].Match.Path = route.PathMatch{Kind: route.PathRegex, Value: "("}
		return h
	}
	shop := model.Key{Kind: model.KindHTTPRoute, Namespace: "default", Name: "shop"}
	made, failures := tr.Apply([]route.Change{
		route.Set(gateways, broken("*.example.com"), shop), route.Set(gateways, broken("a.example.com"), shop),
		route.Set(gateways, &route.Listener{Name: "l"}, shop), route.Set(gateways, wild("b.example.com", "one")),
	})
	w.apply(made)
	if len(failures) != 3 {
		t.Fatalf("got %v, want three failures", failures)
	}
	for _, f := range failures {
		if f.Err == nil || !slices.Equal(f.Origins, []model.Key{shop}) {
			t.Errorf("failure of %s: %v, of %v", f.Ref, f.Err, f.Origins)
		}
	}
	delete(w, string(gateways)+" ScopedRouteConfiguration gw|b.example.com")
	if diff := cmp.Diff(before, w); diff != "" {
		t.Errorf("what was good changes:\n%s", diff)
	}
}

// TestWalk makes random changes and checks after each that the sum of what the
// translator said is what a new one says of all that there is.
func TestWalk(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	tr, w := translate.New(), world{}
	there := map[route.Ref]route.Change{}
	names := []string{"*", "*.a.example", "*.b.a.example", "a.example", "x.a.example"}
	groups := []route.Group{gateways, route.MeshGroup}
	chains := func() []route.TLSChain {
		all := []route.TLSChain{
			{Name: "a", ServerNames: []string{"a.example"}, Secrets: []string{"s"}, Space: "sa"},
			{Name: "wild", ServerNames: []string{"*.a.example"}, Secrets: []string{"s"}, Space: "sw"},
			{Name: "x", ServerNames: []string{"x.a.example", "y.example"}, Secrets: []string{"s"}, Space: "sx"},
			{Name: "any", Secrets: []string{"s"}, Space: "sy"},
		}
		rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		return all[:1+rnd.IntN(len(all))]
	}
	random := func() route.Change {
		g := groups[rnd.IntN(len(groups))]
		var r route.Resource
		switch rnd.IntN(6) {
		case 0:
			r = &route.Listener{Name: "tls", Gateway: &route.GatewayListener{Port: 443, Protocol: route.HTTPS, Chains: chains()}}
		case 1:
			ports := []uint16{80, 81, 82}
			r = &route.Listener{Name: "out", Outbound: &route.Outbound{Port: 15001, Space: "m", HTTPPorts: ports[:rnd.IntN(len(ports)+1)]}}
		case 2:
			r = &route.Cluster{Name: "c", Protocol: route.TCP, Localities: rnd.IntN(2) == 0}
		default:
			spaces := []string{"sa", "sw", "sx", "sy", "m:80", "m:81"}
			h := wild(names[rnd.IntN(len(names))], fmt.Sprint("c", rnd.IntN(3)))
			h.Space = spaces[rnd.IntN(len(spaces))]
			r = h
		}
		if rnd.IntN(3) == 0 {
			return route.Remove(g, r.Kind(), r.ID())
		}
		return route.Set(g, r)
	}
	for range 150 {
		batch := make([]route.Change, 1+rnd.IntN(3))
		for i := range batch {
			batch[i] = random()
			if batch[i].Resource == nil {
				delete(there, batch[i].Ref)
			} else {
				there[batch[i].Ref] = batch[i]
			}
		}
		made, failures := tr.Apply(batch)
		if len(failures) > 0 {
			t.Fatal(failures)
		}
		w.apply(made)
		all, failures := translate.New().Apply(slices.Collect(maps.Values(there)))
		if len(failures) > 0 {
			t.Fatal(failures)
		}
		want := world{}
		want.apply(all)
		if diff := cmp.Diff(want, w); diff != "" {
			t.Fatalf("after %v (-from nothing +by changes):\n%s", batch, diff)
		}
	}
}

// TestCost guards what a change of one host costs, among others and alone.
func TestCost(t *testing.T) {
	tr := translate.New()
	for i := range 1000 {
		tr.Apply([]route.Change{route.Set(gateways, wild(fmt.Sprintf("h%d.example.com", i), "one"))})
	}
	change := []route.Change{route.Set(gateways, wild("h1.example.com", "two"))}
	if got := testing.AllocsPerRun(50, func() { tr.Apply(change) }); got > 150 {
		t.Errorf("a change of a host allocates %v times", got)
	}
}

func BenchmarkHost(b *testing.B) {
	tr := translate.New()
	change := []route.Change{route.Set(gateways, wild("a.example.com", "two"))}
	for b.Loop() {
		tr.Apply(change)
	}
}

func BenchmarkEndpoints(b *testing.B) {
	tr := translate.New()
	l := route.Locality{}
	for i := range 10 {
		l.Endpoints = append(l.Endpoints, route.Endpoint{Addr: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:80", i+1))})
	}
	change := []route.Change{route.Set(gateways, &route.Endpoints{Cluster: "c", Localities: []route.Locality{l}})}
	for b.Loop() {
		tr.Apply(change)
	}
}
