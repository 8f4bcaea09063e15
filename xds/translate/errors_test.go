package translate_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/translate"
)

// TestRefusals lists what Envoy would refuse, or do wrongly, and the words by
// which the user gets to know.
func TestRefusals(t *testing.T) {
	host := func(r route.Rule) route.Resource {
		if r.Name == "" {
			r.Name = "r"
		}
		if r.Backends == nil && r.Redirect == nil {
			r.Backends = []route.Backend{{Cluster: "c", Weight: 1}}
		}
		return &route.Host{Space: "s", Name: "a.example.com", Rules: []route.Rule{r}}
	}
	path := func(kind route.PathKind, value string) route.Resource {
		return host(route.Rule{Match: route.Match{Path: route.PathMatch{Kind: kind, Value: value}}})
	}
	header := func(kind route.ValueKind, name, value string) route.Resource {
		return host(route.Rule{Match: route.Match{Headers: []route.ValueMatch{{Kind: kind, Name: name, Value: value}}}})
	}
	edit := func(e route.HeaderEdits) route.Resource { return host(route.Rule{Request: e}) }
	set := func(name, value string) route.Resource {
		return edit(route.HeaderEdits{Set: []route.Header{{Name: name, Value: value}}})
	}
	gateway := func(g route.GatewayListener) route.Resource { return &route.Listener{Name: "l", Gateway: &g} }
	inbound := func(ports ...route.InboundPort) route.Resource {
		return &route.Listener{Name: "l", Inbound: &route.Inbound{Port: 15006, Default: route.Strict, Ports: ports}}
	}
	endpoints := func(l ...route.Locality) route.Resource { return &route.Endpoints{Cluster: "c", Localities: l} }
	at := func(addr string) route.Locality {
		return route.Locality{Endpoints: []route.Endpoint{{Addr: netip.MustParseAddrPort(addr)}}}
	}
	huge := []route.Endpoint{
		{Addr: netip.MustParseAddrPort("10.0.0.1:1"), Weight: 1 << 31}, {Addr: netip.MustParseAddrPort("10.0.0.2:1"), Weight: 1 << 31},
	}

	for _, tc := range []struct {
		want string
		r    route.Resource
	}{
		{"is not the name of a host", &route.Host{Space: "s", Name: "A.example.com"}},
		{"is not the name of a host", &route.Host{Space: "s", Name: "a.example.com:80"}},
		{"is not the name of a host", &route.Host{Space: "s", Name: "::1"}},
		{"is not the name of a host", &route.Host{Space: "s"}},
		{"a space of hosts", &route.Host{Space: "a|b", Name: "a"}},
		{"a space of hosts", &route.Host{Space: "50%", Name: "a"}},
		{"shares a scope", &route.Host{Space: "s", Name: "*.example.com"}},
		{"has no name", &route.Host{Space: "s", Name: "a", Rules: []route.Rule{{}}}},
		{"0 of backends", &route.Host{Space: "s", Name: "a", Rules: []route.Rule{{Name: "r"}}}},
		{"2 of backends", host(route.Rule{Backends: []route.Backend{{Cluster: "c", Weight: 1}}, Redirect: &route.Redirect{Code: 301}})},
		{"sum of the weights", host(route.Rule{Backends: []route.Backend{{Cluster: "c", Weight: 1 << 31}, {Cluster: "d", Weight: 1 << 31}}})},
		{"begin with a slash", path(route.PathExact, "a")},
		{"begin with a slash", path(route.PathPrefix, "")},
		{"PathSeparatedPrefix", path(route.PathPrefix, "/a?b")},
		{"cannot be compared", path("Glob", "/a")},
		{"missing closing", path(route.PathRegex, "/a(")},
		{"invalid repeat count", path(route.PathRegex, "/a{1001}")},
		{"invalid or unsupported Perl syntax", path(route.PathRegex, "/a(?=b)")},
		{"none of a path's", path(route.PathRegex, `/a\x{100}`)},
		{"none of a path's", path(route.PathRegex, `\\\x{0010FFFF}`)},
		{"is too large", path(route.PathRegex, `/(\pL{500}|\pN{500})`)},
		{"an empty regular expression", path(route.PathRegex, "")},
		{"missing argument to repetition", header(route.ValueRegex, "x", "*")},
		{"an empty prefix", header(route.ValuePrefix, "x", "")},
		{"not the name of a header", header(route.ValueExact, "x y", "")},
		{"without a name", header(route.ValueExact, "", "")},
		{"cannot be compared", header("Glob", "x", "")},
		{"only headers", host(route.Rule{Match: route.Match{Query: []route.ValueMatch{{Name: "q", Invert: true}}}})},
		{"not the name of a header", set(":path", "/")},
		{"has a line end", set("x", "a\r\nb")},
		{"Host can be set", edit(route.HeaderEdits{Add: []route.Header{{Name: "host", Value: "a"}}})},
		{"cannot be removed", edit(route.HeaderEdits{Remove: []string{"Host"}})},
		{"not the code of a redirection", host(route.Rule{Redirect: &route.Redirect{Code: 200}})},
		{"cannot be replaced", host(route.Rule{
			Match:   route.Match{Path: route.PathMatch{Kind: route.PathRegex, Value: "/.*"}},
			Rewrite: &route.Rewrite{PathPrefix: "/b", HasPrefix: true},
		})},
		{"is negative", host(route.Rule{Timeout: -time.Second})},

		{"cannot speak", &route.Cluster{Name: "c", Protocol: "QUIC"}},
		{"Name", &route.Cluster{Protocol: route.TCP}},
		{"not an endpoint's address", endpoints(at("10.0.0.1:0"))},
		{"not an endpoint's address", endpoints(at("[fe80::1%eth0]:1"))},
		{"two localities", endpoints(at("10.0.0.1:1"), at("10.0.0.2:1"))},
		{"endpoints' weights", endpoints(route.Locality{Endpoints: huge})},
		{"localities' weights", endpoints(route.Locality{Name: "a", Weight: 1 << 31}, route.Locality{Name: "b", Weight: 1 << 31})},

		{"0 of gateway", &route.Listener{Name: "l"}},
		{"no port", gateway(route.GatewayListener{Protocol: route.HTTP, Space: "s"})},
		{"a space of hosts", gateway(route.GatewayListener{Port: 80, Protocol: route.HTTP})},
		{"cannot speak", gateway(route.GatewayListener{Port: 80, Protocol: route.HTTP2, Space: "s"})},
		{"without a cluster", gateway(route.GatewayListener{Port: 80, Protocol: route.TCP})},
		{"without a certificate", gateway(route.GatewayListener{Port: 80, Protocol: route.HTTPS})},
		{"no certificate", gateway(route.GatewayListener{Port: 80, Protocol: route.HTTPS, Chains: []route.TLSChain{{Name: "c", Space: "s"}}})},
		{"two chains", gateway(route.GatewayListener{Port: 80, Protocol: route.HTTPS, Chains: []route.TLSChain{
			{Name: "c", Space: "s", Secrets: []string{"x"}, ServerNames: []string{"a.example"}},
			{Name: "d", Space: "t", Secrets: []string{"x"}, ServerNames: []string{"A.example"}},
		}})},
		{"is there twice", inbound(route.InboundPort{Port: 1, Protocol: route.TCP, Mode: route.Strict}, route.InboundPort{Port: 1, Protocol: route.TCP, Mode: route.Strict})},
		{"is there twice", inbound(route.InboundPort{Port: 15006, Protocol: route.TCP, Mode: route.Strict})},
		{"no mode", inbound(route.InboundPort{Port: 1, Protocol: route.TCP})},
		{"cannot speak", inbound(route.InboundPort{Port: 1, Protocol: route.HTTPS, Mode: route.Strict})},
		{"is there twice", &route.Listener{Name: "l", Outbound: &route.Outbound{Port: 15001, Space: "m", HTTPPorts: []uint16{80, 80}}}},
		{"not valid", &route.Listener{Name: "l", Outbound: &route.Outbound{Port: 15001, Space: "m", ServiceRanges: []netip.Prefix{{}}}}},
	} {
		if _, err := translate.Translate(tc.r); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%T %+v: got %v, want an error with %q", tc.r, tc.r, err, tc.want)
		}
	}
}

// TestSecrets checks certificates as Envoy does, which takes RSA from 2048
// bits on and three curves of ECDSA.
func TestSecrets(t *testing.T) {
	signed := func(private, public any) *route.Secret {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
		raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, public, private)
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		return &route.Secret{
			Name: "s",
			Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
			Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		}
	}
	curve := func(c elliptic.Curve) *route.Secret {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return signed(key, &key.PublicKey)
	}
	bits := func(n int) *route.Secret {
		key, err := rsa.GenerateKey(rand.Reader, n)
		if err != nil {
			t.Fatal(err)
		}
		return signed(key, &key.PublicKey)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one, two := curve(elliptic.P256()), curve(elliptic.P256())
	for _, tc := range []struct {
		name, want string
		s          *route.Secret
	}{
		{"P-256", "", one},
		{"P-521", "", curve(elliptic.P521())},
		{"P-224", "curve P-224", curve(elliptic.P224())},
		{"RSA", "", bits(2048)},
		{"short RSA", "1024 bits", bits(1024)},
		{"Ed25519", "Envoy takes RSA and ECDSA", signed(private, public)},
		{"nothing", "the certificate and its key", &route.Secret{Name: "s"}},
		{"another's key", "does not match", &route.Secret{Name: "s", Cert: one.Cert, Key: two.Key}},
		{"roots", "", &route.Secret{Name: "s", Roots: []byte(root)}},
		{"no roots", "no certificate", &route.Secret{Name: "s", Roots: one.Key}},
		{"broken roots", "the roots", &route.Secret{Name: "s", Roots: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})}},
	} {
		_, err := translate.Translate(tc.s)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

// FuzzHost translates what users write into routes. Whatever it is, it is
// refused, or is the same resource each time.
func FuzzHost(f *testing.F) {
	f.Add("a.example.com", "/path", "[a-z]+", "x-header", "value%", "/prefix/")
	f.Add("[::1]", "", "(?i)a{2}", ":authority", "\x00", "")
	f.Fuzz(func(t *testing.T, host, path, re, name, value, prefix string) {
		edits := route.HeaderEdits{Set: []route.Header{{Name: name, Value: value}}, Remove: []string{name}}
		h := &route.Host{Space: "s", Name: host, Rules: []route.Rule{
			{Name: "a", Match: route.Match{
				Path:    route.PathMatch{Kind: route.PathPrefix, Value: path},
				Headers: []route.ValueMatch{{Name: name, Kind: route.ValueRegex, Value: re}},
			}, Backends: []route.Backend{{Cluster: "c", Weight: 1, Request: edits}}, Rewrite: &route.Rewrite{PathPrefix: prefix, HasPrefix: true}},
			{Name: "b", Match: route.Match{Path: route.PathMatch{Kind: route.PathRegex, Value: re}},
				Redirect: &route.Redirect{Code: 301, Path: path}, Response: edits},
		}}
		first, err := translate.Translate(h)
		if err != nil {
			return
		}
		second, err := translate.Translate(h)
		if err != nil || len(first) != 1 || first[0].Version != second[0].Version {
			t.Errorf("%v is not the same as %v: %v", first, second, err)
		}
	})
}
