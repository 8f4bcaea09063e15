package delta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

func cluster(name string) Ref   { return Ref{ClusterType, name} }
func endpoints(name string) Ref { return Ref{EndpointsType, name} }
func listener(name string) Ref  { return Ref{ListenerType, name} }
func scope(name string) Ref     { return Ref{ScopedRouteType, name} }
func secret(name string) Ref    { return Ref{SecretType, name} }

// res makes a resource of a version. Its body says what it needs, so that the
// fake proxy can check. A version with "bad" in it is refused.
func res(ref Ref, version string, needs ...Ref) *Resource {
	body := version
	for _, n := range needs {
		body += "\n" + n.TypeURL + " " + n.Name
	}
	if version == "same" { // a version is a hash of the body, and that says what it needs
		for _, n := range needs {
			version += " " + n.Name
		}
	}
	return &Resource{Ref: ref, Version: version, Needs: needs, Body: &anypb.Any{TypeUrl: ref.TypeURL, Value: []byte(body)}}
}

func needsOf(r *discovery.Resource) []Ref {
	var out []Ref
	for _, line := range strings.Split(string(r.Resource.Value), "\n")[1:] {
		url, name, _ := strings.Cut(line, " ")
		out = append(out, Ref{url, name})
	}
	return out
}

// fakeProxy does with responses what stock Envoy does, as far as order goes:
// it asks for the endpoints of new clusters and not of changed ones,
// acknowledges clusters once all are warm, and applies what is good in a
// refused response of clusters or listeners but nothing of a refused response
// of scopes. Every response is checked against what it has.
type fakeProxy struct {
	mu sync.Mutex // for those that talk to a server by a stream

	t        *testing.T
	have     map[Ref]*discovery.Resource
	version  map[Ref]string // of what it acknowledged
	warming  map[string]bool
	fed      map[string]bool // clusters whose endpoints came since they did
	asked    map[Ref]bool
	held     []string // nonces of cluster responses not acknowledged yet
	late     map[string]*rpc.Status
	got      int // resources
	connects int
	log      []string
	torn     bool // a stream ended since it was all warm
	out      []*discovery.DeltaDiscoveryRequest
}

func newFakeProxy(t *testing.T) *fakeProxy {
	return &fakeProxy{
		t: t, have: map[Ref]*discovery.Resource{}, version: map[Ref]string{},
		warming: map[string]bool{}, fed: map[string]bool{}, asked: map[Ref]bool{}, late: map[string]*rpc.Status{},
	}
}

var wildcardTypes = []string{ClusterType, ListenerType, ScopedRouteType}

// connect makes the first requests of a stream.
func (p *fakeProxy) connect() {
	p.out, p.held, p.late = nil, nil, map[string]*rpc.Status{}
	p.torn = true
	p.connects++
	node := &core.Node{Id: "fake"}
	for _, url := range []string{ClusterType, EndpointsType, SecretType, ListenerType, ScopedRouteType} {
		req := &discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: url, InitialResourceVersions: map[string]string{}}
		for ref, v := range p.version {
			if ref.TypeURL == url && p.have[ref] != nil {
				req.InitialResourceVersions[ref.Name] = v
			}
		}
		for ref := range p.asked {
			if ref.TypeURL == url {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, ref.Name)
			}
		}
		slices.Sort(req.ResourceNamesSubscribe)
		if !slices.Contains(wildcardTypes, url) && len(req.ResourceNamesSubscribe) == 0 {
			continue
		}
		p.out = append(p.out, req)
	}
}

func (p *fakeProxy) ask(ref Ref) {
	if !p.asked[ref] {
		p.asked[ref] = true
		p.out = append(p.out, &discovery.DeltaDiscoveryRequest{TypeUrl: ref.TypeURL, ResourceNamesSubscribe: []string{ref.Name}})
	}
}

func (p *fakeProxy) forget(ref Ref) {
	if p.asked[ref] {
		delete(p.asked, ref)
		delete(p.have, ref)
		delete(p.version, ref)
		p.out = append(p.out, &discovery.DeltaDiscoveryRequest{TypeUrl: ref.TypeURL, ResourceNamesUnsubscribe: []string{ref.Name}})
	}
}

// take applies a response and queues the answers.
func (p *fakeProxy) take(r *discovery.DeltaDiscoveryResponse) {
	var bad []string
	for _, x := range r.Resources {
		if strings.Contains(x.Version, "bad") {
			bad = append(bad, x.Name)
		}
	}
	p.got += len(r.Resources)
	p.note(r, bad)
	for _, name := range r.RemovedResources {
		p.remove(Ref{r.TypeUrl, name})
	}
	for _, x := range r.Resources {
		if len(bad) > 0 && (r.TypeUrl != ClusterType && r.TypeUrl != ListenerType || strings.Contains(x.Version, "bad")) {
			continue
		}
		p.put(Ref{r.TypeUrl, x.Name}, x, len(bad) == 0)
	}
	var refusal *rpc.Status
	if len(bad) > 0 {
		refusal = &rpc.Status{Code: 13, Message: "do not like it"}
	}
	if r.TypeUrl == ClusterType {
		p.held = append(p.held, r.Nonce)
		p.late[r.Nonce] = refusal
		p.warm()
	} else {
		p.out = append(p.out, &discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: refusal})
		p.warm()
	}
}

// warm sends the acknowledgements that were withheld, if nothing warms.
func (p *fakeProxy) warm() {
	if len(p.warming) > 0 {
		return
	}
	p.torn = false
	for _, nonce := range p.held {
		p.out = append(p.out, &discovery.DeltaDiscoveryRequest{TypeUrl: ClusterType, ResponseNonce: nonce, ErrorDetail: p.late[nonce]})
	}
	p.held = nil
}

// timeout ends the warming of clusters whose endpoints do not come, with those
// that it has. That must only happen where a stream ended between a cluster
// and its endpoints.
func (p *fakeProxy) timeout() {
	if len(p.warming) > 0 && !p.torn {
		p.fail("warming: %v", p.warming)
	}
	for name := range p.warming {
		delete(p.warming, name)
		p.fed[name] = p.have[endpoints(name)] != nil
	}
	p.warm()
}

func (p *fakeProxy) put(ref Ref, x *discovery.Resource, acked bool) {
	needs := needsOf(x)
	switch ref.TypeURL {
	case ClusterType:
		for _, n := range needs {
			if n.TypeURL == EndpointsType {
				// New or changed: both wait, only for the new it asks.
				p.warming[ref.Name] = true
				if p.have[ref] == nil {
					p.fed[ref.Name] = false
				}
				p.ask(n)
			}
		}
	case EndpointsType:
		delete(p.warming, ref.Name)
		if p.have[cluster(ref.Name)] != nil {
			p.fed[ref.Name] = true
		}
		if !p.asked[ref] {
			return // nobody watches
		}
	case SecretType:
		if !p.asked[ref] {
			return
		}
	default:
		for _, n := range needs {
			switch {
			case n.TypeURL == ClusterType && p.have[n] == nil:
				p.fail("%s came before %s", short(ref), short(n))
			case n.TypeURL == ClusterType && !p.fed[n.Name]:
				p.fail("%s came before the endpoints of %s", short(ref), short(n))
			case n.TypeURL == SecretType:
				p.ask(n)
			}
		}
	}
	p.have[ref] = x
	if acked {
		p.version[ref] = x.Version
	}
}

func (p *fakeProxy) remove(ref Ref) {
	if ref.TypeURL == EndpointsType || ref.TypeURL == SecretType {
		delete(p.warming, ref.Name)
		p.fed[ref.Name] = true // it is told that there are none
		delete(p.version, ref)
		return
	}
	for other, x := range p.have {
		if slices.Contains(needsOf(x), ref) && other.TypeURL != EndpointsType {
			p.fail("%s was removed while %s needs it", short(ref), short(other))
		}
	}
	delete(p.have, ref)
	delete(p.version, ref)
	if ref.TypeURL == ClusterType {
		delete(p.warming, ref.Name)
		delete(p.fed, ref.Name)
		p.forget(endpoints(ref.Name))
		p.warm()
	}
}

func (p *fakeProxy) note(r *discovery.DeltaDiscoveryResponse, bad []string) {
	var parts []string
	for _, x := range r.Resources {
		parts = append(parts, x.Name+"@"+x.Version)
	}
	for _, n := range r.RemovedResources {
		parts = append(parts, "-"+n)
	}
	line := short(Ref{r.TypeUrl, strings.Join(parts, " ")})
	if len(bad) > 0 {
		line += " (refused)"
	}
	p.log = append(p.log, line)
}

func (p *fakeProxy) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Errorf(format, args...)
	tail := p.log[max(0, len(p.log)-30):]
	p.t.Fatalf("the last responses:\n%s", strings.Join(tail, "\n"))
}

// lab joins a server and one fake proxy without goroutines: what is on its way
// between them stays there until the test moves it.
type lab struct {
	t     *testing.T
	srv   *Server
	c     *client
	p     *fakeProxy
	now   time.Time
	wait  time.Duration
	wire  []*discovery.DeltaDiscoveryResponse // to the proxy
	names []string
}

func newLab(t *testing.T, o Options, groups ...string) *lab {
	l := &lab{t: t, srv: NewServer(o), p: newFakeProxy(t), now: time.Unix(1e9, 0), names: groups}
	return l
}

func (l *lab) connect() {
	if l.c != nil {
		l.srv.disconnect(l.c)
	}
	l.wire = nil
	l.c = l.srv.connect(&core.Node{Id: "fake"}, l.names)
	l.c.since = l.now
	l.p.connect()
}

// server lets the server make one step, with a request if there is one.
func (l *lab) server(request bool) bool {
	var req *discovery.DeltaDiscoveryRequest
	if request && len(l.p.out) > 0 {
		req, l.p.out = l.p.out[0], l.p.out[1:]
	}
	r, wait := l.c.step(req, l.now)
	l.wait = wait
	if r != nil {
		l.wire = append(l.wire, r)
	}
	return req != nil || r != nil
}

// proxy lets the proxy take one response.
func (l *lab) proxy() bool {
	if len(l.wire) == 0 {
		return false
	}
	r := l.wire[0]
	l.wire = l.wire[1:]
	l.p.take(r)
	return true
}

// run moves everything until nothing moves.
func (l *lab) run() {
	l.t.Helper()
	for i := 0; ; i++ {
		if i > 200000 {
			l.t.Fatalf("no end of talking:\n%s", strings.Join(l.p.log[len(l.p.log)-30:], "\n"))
		}
		a, b := l.server(true), l.proxy()
		if !a && !b {
			return
		}
	}
}

// sleep lets time pass and runs.
func (l *lab) sleep(d time.Duration) {
	l.t.Helper()
	l.now = l.now.Add(d)
	l.run()
}

// takeLog returns and forgets what was sent.
func (l *lab) takeLog() string {
	s := strings.Join(l.p.log, "\n")
	l.p.log = nil
	return s
}

func (l *lab) want(lines ...string) {
	l.t.Helper()
	if got, want := l.takeLog(), strings.Join(lines, "\n"); got != want {
		l.t.Fatalf("sent:\n%s\nwant:\n%s", got, want)
	}
}

// check compares what the proxy has with what the groups have.
func (l *lab) check() {
	l.t.Helper()
	for _, url := range wildcardTypes {
		want := map[string]string{}
		for _, g := range l.names {
			for name, e := range l.srv.groupLocked(g).types[url] {
				want[name] = e.version
			}
		}
		got := map[string]string{}
		for ref, x := range l.p.have {
			if ref.TypeURL == url {
				got[ref.Name] = x.Version
			}
		}
		for name, v := range want {
			if !strings.Contains(v, "bad") && got[name] != v && !l.stuck(Ref{url, name}) {
				l.p.fail("the proxy has %s %q, not %q", short(Ref{url, name}), got[name], v)
			}
		}
		for name := range got {
			if l.p.version[Ref{url, name}] == "" && l.p.connects > 1 {
				continue // of a refused response, which a new stream does not tell
			}
			if _, ok := want[name]; !ok && l.c.typeOf(url).item(name).refs == 0 && !l.c.unknownAbove(level(url)) {
				l.p.fail("the proxy still has %s", short(Ref{url, name}))
			}
		}
	}
	for name := range l.srv.groupLocked(l.names[0]).types[EndpointsType] {
		e, _ := l.c.lookup(endpoints(name))
		if x := l.p.have[endpoints(name)]; l.p.have[cluster(name)] != nil && !strings.Contains(e.version, "bad") && (x == nil || x.Version != e.version) {
			l.p.fail("the proxy has endpoints %v of %s, not %s", x, name, e.version)
		}
	}
}

func (l *lab) stuck(ref Ref) bool {
	it := l.c.typeOf(ref.TypeURL).items[ref.Name]
	return it != nil && it.work != nil && it.work.state == stuck
}

// cl makes a cluster with endpoints.
func cl(name, version string) []Change {
	return []Change{
		Set("g", res(cluster(name), version, endpoints(name))),
		Set("g", res(endpoints(name), version)),
	}
}

func sc(name, version string, clusters ...string) Change {
	var needs []Ref
	for _, c := range clusters {
		needs = append(needs, cluster(c))
	}
	return Set("g", res(scope(name), version, needs...))
}

func join(parts ...any) []Change {
	var out []Change
	for _, p := range parts {
		switch p := p.(type) {
		case Change:
			out = append(out, p)
		case []Change:
			out = append(out, p...)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func rm(ref Ref) Change { return Remove("g", ref) }
