package delta

import (
	"strconv"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
)

// FuzzRequests sends what no proxy would: any request at any time. The server
// must neither panic nor talk without end, and its books must stay right.
func FuzzRequests(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 3, 2, 2, 2, 1, 3, 4, 4})
	f.Add([]byte{5, 1, 0, 9, 4, 1, 17, 3, 3, 200, 255, 128, 7})
	f.Add([]byte("any request at any time, from a proxy that lost its mind"))
	urls := []string{ClusterType, EndpointsType, SecretType, ListenerType, ScopedRouteType, RouteType, "", "x"}
	names := []string{"a", "b", "ha", "hb", "l", "s", "*", "", "a/*", "a/b", "/*", "/"}
	versions := []string{"1", "2", "bad", ""}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewServer(Options{Single: 2})
		s.Apply(join(cl("a", "1"), cl("b", "1"), sc("ha", "1", "a"), sc("hb", "1", "b"), cl("a/b", "1"),
			Set("g", res(listener("l"), "1", cluster("a"), secret("s"))), Set("g", res(secret("s"), "1"))))
		c := s.connect(&core.Node{Id: "f"}, []string{"g", "none"})
		now := time.Unix(1e9, 0)
		next := func() int {
			if len(in) == 0 {
				return 0
			}
			b := in[0]
			in = in[1:]
			return int(b)
		}
		for i := 0; len(in) > 0 && i < 300; i++ {
			req := &discovery.DeltaDiscoveryRequest{TypeUrl: urls[next()%len(urls)]}
			what := next()
			if what&1 > 0 {
				req.ResourceNamesSubscribe = []string{names[next()%len(names)], names[next()%len(names)]}
			}
			if what&2 > 0 {
				req.ResourceNamesUnsubscribe = []string{names[next()%len(names)]}
			}
			if what&4 > 0 {
				req.ResponseNonce = strconv.Itoa(next() % 32)
			}
			if what&8 > 0 {
				req.ErrorDetail = &rpc.Status{Message: "no"}
			}
			if what&16 > 0 {
				req.InitialResourceVersions = map[string]string{names[next()%len(names)]: versions[next()%len(versions)]}
			}
			switch what >> 5 {
			case 1:
				s.Apply([]Change{sc("ha", strconv.Itoa(i), "b"), rm(cluster("a")), rm(endpoints("a"))})
			case 2:
				s.Apply(join(cl("a", strconv.Itoa(i)), sc("ha", strconv.Itoa(i), "a")))
			case 3:
				now = now.Add(time.Second)
			case 4:
				s.Apply([]Change{rm(scope("hb")), rm(cluster("b")), rm(endpoints("b"))})
			}
			for n := 0; ; n++ {
				r, wait := c.step(req, now)
				if req = nil; r == nil {
					if wait <= 0 {
						t.Fatalf("wait of %v", wait)
					}
					break
				}
				if n > 1000 {
					t.Fatal("no end of responses")
				}
			}
		}
		for _, typ := range c.types {
			if typ.blocked < 0 {
				t.Errorf("%s: %d blocked", typ.url, typ.blocked)
			}
			for _, it := range typ.items {
				if it.refs < 0 {
					t.Errorf("%s is needed %d times", short(it.ref()), it.refs)
				}
			}
		}
		s.Clients()
		s.disconnect(c)
	})
}
