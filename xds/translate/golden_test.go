package translate_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
	"github.com/sluicenet/sluice/xds/translate"
)

var update = flag.Bool("update", false, "write the golden files")

// text prints resources as YAML, with what they need.
func text(t *testing.T, resources ...delta.Resource) string {
	t.Helper()
	var out bytes.Buffer
	for _, r := range resources {
		m, err := r.Body.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		body, err := yaml.JSONToYAML(raw)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "--- # %s %s\n", kind(r.Ref), r.Name)
		for _, n := range r.Needs {
			fmt.Fprintf(&out, "# needs %s %s\n", kind(n), n.Name)
		}
		out.Write(body)
	}
	return out.String()
}

func kind(r delta.Ref) string { return filepath.Ext(r.TypeURL)[1:] }

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), -update writes it:\n%s", path, diff)
	}
}

func TestGolden(t *testing.T) {
	canary := route.Rule{
		Name:  "canary",
		Match: route.Match{Method: "GET", Path: route.PathMatch{Kind: route.PathPrefix, Value: "/api/"}, Headers: []route.ValueMatch{{Name: "X-Tester", Value: "yes"}}},
		Backends: []route.Backend{
			{Cluster: "default/web/v1/80", Weight: 90},
			{Cluster: "default/web/v2/80", Weight: 10, Request: route.HeaderEdits{Set: []route.Header{{Name: "X-Version", Value: "2"}}}},
		},
		Rewrite: &route.Rewrite{PathPrefix: "/", HasPrefix: true},
		Timeout: 3 * time.Second,
	}
	for name, r := range map[string]route.Resource{
		"secret-roots":  &route.Secret{Name: "roots", Roots: []byte(root)},
		"cluster-http":  &route.Cluster{Name: "default/web/80", Protocol: route.HTTP},
		"cluster-split": &route.Cluster{Name: "tcp/10.96.0.20:5432", Protocol: route.TCP, Localities: true, ConnectTimeout: time.Second},
		"cluster-mesh": &route.Cluster{Name: "default/api/80", Protocol: route.HTTP2, MTLS: &route.ClientMTLS{
			PeerIDs: []string{"spiffe://cluster.local/ns/default/sa/api"}, ALPN: route.ALPNMesh,
		}},
		"endpoints": &route.Endpoints{Cluster: "default/web/80", Localities: []route.Locality{
			{Name: "v1", Weight: 90, Endpoints: []route.Endpoint{
				{Addr: netip.MustParseAddrPort("10.244.0.1:80")},
				{Addr: netip.MustParseAddrPort("10.244.0.2:80"), Weight: 3, Mesh: true},
			}},
			{Name: "v2", Endpoints: []route.Endpoint{{Addr: netip.MustParseAddrPort("[fd00::1]:80"), Draining: true}}},
		}},
		"endpoints-none": &route.Endpoints{Cluster: "default/web/80"},
		"listener-http":  &route.Listener{Name: "default/gw:80", Gateway: &route.GatewayListener{Port: 80, Protocol: route.HTTP, Space: "default/gw:80"}},
		"listener-https": &route.Listener{Name: "default/gw:443", Gateway: &route.GatewayListener{
			Port: 443, Protocol: route.HTTPS, Addresses: loopback,
			Chains: []route.TLSChain{
				{Name: "shop", ServerNames: []string{"shop.example.com"}, Secrets: []string{"default/shop"}, Space: "default/gw:shop"},
				{Name: "any", Secrets: []string{"default/any"}, Space: "default/gw:any"},
			},
		}},
		"listener-tcp": &route.Listener{Name: "default/gw:5432", Gateway: &route.GatewayListener{Port: 5432, Protocol: route.TCP, Cluster: "default/db/5432"}},
		"inbound": &route.Listener{Name: "inbound", Inbound: &route.Inbound{Port: 15006, Default: route.Permissive, Ports: []route.InboundPort{
			{Port: 8080, Protocol: route.HTTP, Mode: route.Permissive},
			{Port: 5432, Protocol: route.TCP, Mode: route.Strict},
			{Port: 3306, Protocol: route.TCP, Mode: route.Disable},
		}}},
		"outbound": &route.Listener{Name: "outbound", Outbound: &route.Outbound{
			Port: 15001, Space: "mesh", HTTPPorts: []uint16{80}, ServiceRanges: services,
			TCPServices: []netip.AddrPort{netip.MustParseAddrPort("10.96.0.20:80"), netip.MustParseAddrPort("10.96.0.20:90")},
		}},
		"host": &route.Host{Space: "default/gw:80", Name: "shop.example.com", Rules: []route.Rule{canary, {
			Name: "old", Match: route.Match{Path: route.PathMatch{Kind: route.PathExact, Value: "/old"}},
			Redirect: &route.Redirect{Scheme: "https", Code: 301},
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := translate.Translate(r)
			if err != nil {
				t.Fatal(err)
			}
			again, err := translate.Translate(r)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if got[i].Version != again[i].Version || got[i].Version == "" {
					t.Errorf("%s: the version is %q, then %q", got[i].Name, got[i].Version, again[i].Version)
				}
			}
			golden(t, name, text(t, got...))
		})
	}
}

// root is a certificate that signs itself.
const root = `-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUPuAjXS/KxmbQFdrnPa+c7HZ3YCYwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEcm9vdDAgFw0yNjExMjIxNTA5MzZaGA8yMTI2MTAyOTE1MDkz
NlowDzENMAsGA1UEAwwEcm9vdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABB8t
zJP5FJgbQ/Cj/ozD8TOTrkHiyCZuRC5TxcbHJYDwpKOtuZ50hmVcIcrnre7xHcon
glmlzuTdVkp3rpI2yPWjUzBRMB0GA1UdDgQWBBQc+Isr9bySHZxDBRwEW/6w5KEt
jTAfBgNVHSMEGDAWgBQc+Isr9bySHZxDBRwEW/6w5KEtjTAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIQClp52ckym/VkaXlxSKSlhORhqCaszCQ22y
aTeEFJrK0AIgDxx1YzlCNu0QKR/c08hlR0ddpgtWl4IbvAR9K01vQAw=
-----END CERTIFICATE-----
`
