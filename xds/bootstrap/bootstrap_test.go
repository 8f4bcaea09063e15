package bootstrap

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/route"
)

var update = flag.Bool("update", false, "write the golden files")

var cases = map[string]Options{
	"gateway": {
		Node:  GatewayNode("default", "public", "host-1"),
		Admin: "/run/sluice/gateway/admin",
		ADS:   "/run/sluice/xds",
	},
	"sidecar": {
		Node:           SidecarNode("shop", "cart-7d4b9"),
		Admin:          "127.0.0.1:15000",
		ADS:            "sluice.sluice-system.svc:15012",
		ADSTLS:         &TLS{PeerID: "spiffe://cluster.local/ns/sluice-system/sa/sluice"},
		SDS:            "/run/sluice/sds",
		MaxConnections: 20_000,
		MaxHeap:        256 << 20,
		Mark:           1337,
	},
}

func TestGolden(t *testing.T) {
	for name, options := range cases {
		t.Run(name, func(t *testing.T) {
			raw, err := JSON(options)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := JSON(options); err != nil || !bytes.Equal(raw, again) {
				t.Errorf("the same options make other bytes: %v", err)
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, raw, "", "  "); err != nil {
				t.Fatal(err)
			}
			pretty.WriteByte('\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, pretty.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), pretty.String()); diff != "" {
				t.Errorf("%s differs (-want +got), -update writes it:\n%s", path, diff)
			}
		})
	}
}

// TestEnvoyAccepts has the real Envoy check every bootstrap.
func TestEnvoyAccepts(t *testing.T) {
	path := envoytest.Path(t)
	for name, options := range cases {
		t.Run(name, func(t *testing.T) {
			raw, err := JSON(options)
			if err != nil {
				t.Fatal(err)
			}
			if err := envoy.Validate(t.Context(), path, raw); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestContradictions(t *testing.T) {
	good := cases["sidecar"]
	for want, spoil := range map[string]func(*Options){
		"node id":      func(o *Options) { o.Node = "proxy" },
		"empty part":   func(o *Options) { o.Node = "sidecar//pod" },
		"admin:":       func(o *Options) { o.Admin = "15000" },
		"no host":      func(o *Options) { o.ADS = ":15012" },
		"the port":     func(o *Options) { o.ADS = "host:http" },
		"107 at most":  func(o *Options) { o.SDS = "/" + strings.Repeat("x", 107) },
		"secrets":      func(o *Options) { o.SDS = "" },
		"the name":     func(o *Options) { o.ADSTLS = &TLS{} },
		"nor sidecar/": func(o *Options) { o.Node = "gateway/a/b" },
	} {
		o := good
		spoil(&o)
		if _, err := JSON(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestGroups(t *testing.T) {
	got, err := Groups(SidecarNode("shop", "cart-1"))
	want := []route.Group{route.MeshGroup, route.NamespaceGroup("shop"), route.WorkloadGroup("shop", "cart-1")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("sidecar: %v, %v", got, err)
	}
	got, err = Groups(GatewayNode("default", "public", "pod-1"))
	want = []route.Group{route.GatewayGroup("default", "public")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("gateway: %v, %v", got, err)
	}
	got, err = Groups(GatewayNode("", "public", "pod-1"))
	want = []route.Group{route.GatewayGroup("", "public")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("gateway of a class: %v, %v", got, err)
	}
}

// FuzzGroups feeds node ids as any client may send them.
func FuzzGroups(f *testing.F) {
	f.Add("sidecar/shop/cart")
	f.Add("gateway/a/b/c")
	f.Add("gateway//b/c")
	f.Fuzz(func(t *testing.T, node string) {
		groups, err := Groups(node)
		if (err == nil) != (len(groups) > 0) {
			t.Errorf("%v, %v", groups, err)
		}
		if _, nsErr := Namespace(node); (nsErr == nil) != (err == nil) {
			t.Errorf("namespace: %v, groups: %v", nsErr, err)
		}
	})
}
