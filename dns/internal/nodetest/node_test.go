package nodetest

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// TestNode listens on an address that the node gets only afterwards, and on all
// that it has, and is asked by a pod and by the node itself.
func TestNode(t *testing.T) {
	if _, err := exec.LookPath("dig"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("no dig here (Debian: apt install bind9-dnsutils): %v", err)
	}
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node")
	pod := node.MustPod("pod")

	link := netip.MustParseAddr("169.254.20.10")
	store := dnstest.Cluster()
	var s *dns.Server
	err := node.Do(func() (err error) {
		s, err = dns.New(dns.Options{
			Store: store, Log: slog.New(slog.DiscardHandler),
			Listen: []netip.AddrPort{
				netip.AddrPortFrom(link, 53),
				netip.MustParseAddrPort("0.0.0.0:5353"), netip.MustParseAddrPort("[::]:5353"),
			},
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := s.WaitRevision(ctx, store.Snapshot().Revision()); err != nil {
		t.Fatal(err)
	}
	if err := node.AddAddress(netip.PrefixFrom(link, 32)); err != nil {
		t.Fatal(err)
	}

	for _, from := range []*lab.Namespace{pod.Namespace, node.Namespace} {
		for _, server := range []struct {
			addr netip.Addr
			port string
		}{{link, "53"}, {link, "5353"}, {node.IPv4(), "5353"}, {node.IPv6(), "5353"}} {
			for _, how := range []string{"+notcp", "+tcp"} {
				// dig takes no answer from another address than it asked.
				out, err := from.Command(ctx, "dig", "@"+server.addr.String(), "-p", server.port, how, "+short", "+tries=5", "+timeout=5",
					"_http._tcp.dual.testns.svc.cluster.local", "SRV", "dual.testns.svc.cluster.local", "AAAA").Output()
				if got := strings.Fields(string(out)); err != nil || strings.Join(got, " ") != "0 50 80 dual.testns.svc.cluster.local. fd00::5" {
					t.Errorf("%s asks %v: %q, %v", from.Name(), server, out, err)
				}
			}
		}
	}
}
