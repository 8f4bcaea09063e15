package main

import (
	"context"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestTracingInterception(t *testing.T) {
	captured := func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.96.0.10")} }
	for _, c := range []struct {
		to, protocol string
		want         bool
	}{
		{"10.96.0.10:53", "udp", true}, {"10.96.0.10:53", "tcp", true},
		{"10.96.0.10:53", "sctp", false}, {"10.96.0.10:9153", "tcp", false}, {"10.96.0.11:53", "udp", false},
	} {
		ask := tracingInterception(func(context.Context, url.Values) (any, error) {
			return traced{Destination: netip.MustParseAddrPort(c.to), Protocol: c.protocol, Explanation: "a Service"}, nil
		}, captured)
		answer, err := ask(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		text := answer.(traced).Explanation
		if got := strings.HasPrefix(text, "this node's name server answers"); got != c.want || !strings.HasSuffix(text, "a Service") {
			t.Errorf("%s %s: %q", c.to, c.protocol, text)
		}
	}
}
