package conformance_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/conformance"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/zone"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source/files"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func params(pods string) conformance.Params {
	return conformance.Params{
		Zone: "cluster.local", Pods: pods,
		IPv4: netip.MustParsePrefix("10.96.250.0/24"), IPv6: netip.MustParsePrefix("fd00:10:96::fa00/120"),
	}
}

// serve starts our server on the objects, read as a directory of manifests is.
func serve(t *testing.T, p conformance.Params) netip.AddrPort {
	t.Helper()
	manifests, err := conformance.Manifests(p)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "objects.yaml"), manifests, 0o600); err != nil {
		t.Fatal(err)
	}
	store := model.NewStore()
	src := files.New(files.Options{Dir: dir, Store: store, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- src.Run(ctx) }()
	<-src.Ready()
	if problems := src.Problems(); len(problems) > 0 {
		t.Fatal(problems)
	}
	mode, err := zone.ParsePodMode(p.Pods)
	if err != nil {
		t.Fatal(err)
	}
	s, err := dns.New(dns.Options{
		Store: store, Listen: []netip.AddrPort{loopback}, Pods: mode, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
	})
	if err := s.WaitRevision(ctx, store.Snapshot().Revision()); err != nil {
		t.Fatal(err)
	}
	return s.Addrs()[0]
}

// TestOurs asks our own server.
func TestOurs(t *testing.T) {
	for _, pods := range []string{"disabled", "insecure", "verified"} {
		t.Run(pods, func(t *testing.T) {
			p := params(pods)
			outcomes, err := conformance.Run(t.Context(), conformance.Target{Server: serve(t, p)}, p)
			if err != nil {
				t.Fatal(err)
			}
			rules := map[string]bool{}
			for _, o := range outcomes {
				rules[o.Rule] = true
				if o.Err != nil {
					t.Errorf("%s %s (%s %s over %s): %v", o.Rule, o.What, o.Name, mdns.TypeToString[o.Type], o.Network, o.Err)
				}
			}
			for _, rule := range []string{
				"S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11",
				"C1", "C2", "C3", "C4", "C5", "C7", "C8", "C9", "C10", "C11", "C12", "C13", "C15", "C16", "C18",
			} {
				if !rules[rule] {
					t.Errorf("nothing is asked about rule %s", rule)
				}
			}
		})
	}
}

// TestWrong asks a server that says of every name that it does not exist: all
// that expect anything else must notice.
func TestWrong(t *testing.T) {
	upstream := dnstest.NewUpstream(t, func(q *mdns.Msg, _ bool) *mdns.Msg { return dnstest.Reply(q, mdns.RcodeNameError) })
	p := params("insecure")
	outcomes, err := conformance.Run(t.Context(), conformance.Target{Server: upstream.Addr}, p)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outcomes {
		lenient := strings.HasPrefix(o.What, "the additional section") || strings.HasSuffix(o.What, "OPT record where the query has one") || strings.HasPrefix(o.What, "and has none") || o.Rule == "C1" || strings.HasPrefix(o.What, "no PTR")
		if o.Err == nil && !lenient {
			t.Errorf("%s %s: not noticed", o.Rule, o.What)
		}
	}
	var b bytes.Buffer
	failed, err := conformance.Print(&b, outcomes)
	if err != nil || failed < 40 || !strings.Contains(b.String(), "S2") {
		t.Errorf("%d failed, error %v\n%s", failed, err, b.String())
	}
}

// TestSilent asks nobody.
func TestSilent(t *testing.T) {
	_, err := conformance.Run(t.Context(), conformance.Target{Server: netip.MustParseAddrPort("127.0.0.1:9")}, params("disabled"))
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:9 does not answer") {
		t.Errorf("error %v", err)
	}
}
