package nftables

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// TestTrace compares what the kernel's rules do with the plan, for many sources
// and destinations, and for a kernel that somebody has changed.
func TestTrace(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	balanced := func(s *model.Service) {
		s.Type = corev1.ServiceTypeLoadBalancer
		s.LoadBalancerIPs = []netip.Addr{lb4, lb6}
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30080
	}
	services := map[string]func(*model.Service){
		"cluster":  balanced,
		"affinity": func(s *model.Service) { balanced(s); s.AffinityTimeout = time.Hour },
		"local": func(s *model.Service) {
			balanced(s)
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		},
		"sources": func(s *model.Service) {
			balanced(s)
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/24"), netip.MustParsePrefix("fd00:10:250::/64")}
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			s.AffinityTimeout = time.Hour
		},
		"internal": func(s *model.Service) {
			balanced(s)
			s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
		},
	}
	sources := []string{"", "10.244.1.10", "10.244.2.10", "10.250.0.10", "192.0.2.1", "fd00:10:244:1::a", "fd00:10:250::a", "2001:db8::1"}
	destinations := []string{"10.96.0.10:80", "10.97.0.10:80", "10.240.0.11:30080", "10.240.0.11:30081", "10.96.0.10:81", "10.96.0.77:80", "192.0.2.9:80", "10.97.0.10:81",
		"[fd00:10:96::10]:80", "[fd00:10:97::10]:80", "[fd00:10:240::11]:30080", "[fd00:10:96::10]:81", "[fd00:10:96::77]:80"}
	cases := 0
	for name, edit := range services {
		for _, n := range []int{0, 1, 3} {
			w.put(service("web", edit), w.pods()[3-n:]...)
			for _, source := range sources {
				for _, destination := range destinations {
					to := netip.MustParseAddrPort(destination)
					var from netip.Addr
					if source != "" {
						if from = netip.MustParseAddr(source); from.Is4() != to.Addr().Is4() {
							continue
						}
					}
					for _, protocol := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
						d := proxy.Trace(w.plan, from, to, protocol)
						o, err := w.engine.Trace(t.Context(), d)
						w.must(err)
						if differences := d.Compare(o); len(differences) > 0 {
							t.Fatalf("%s with %d endpoints: %s\n%s%s", name, n, strings.Join(differences, "\n"), d, strings.Join(o.Rules, "\n"))
						}
						cases++
					}
				}
			}
		}
	}
	t.Logf("%d traces", cases)

	w.put(service("web", nil), w.b, w.c)
	d := proxy.Trace(w.plan, netip.MustParseAddr("10.244.1.10"), vip4Port, proxy.TCP)
	for _, change := range []struct{ nft, want string }{
		{"add table ip sluice { flags dormant; }", "the kernel lets it go on unchanged"},
		{"add table ip sluice", ""},
		{"delete element ip sluice hairpin { 10.244.1.11 . 10.244.1.11 }", ""},
		{"add element ip sluice hairpin { 10.244.1.10 . 10.244.1.11 }", "10.244.1.11:8080: the kernel masquerades connections to it, the plan does not"},
		{"delete element ip sluice slots { 10.96.0.10 . tcp . 80 . 1 }", "the kernel does not"},
		{"flush chain ip sluice service-cluster-2", "the plan sends it to an endpoint, the kernel"},
		{"delete element ip sluice services { 10.96.0.10 . tcp . 80 }", "the kernel rejects it, as to a port that the Service does not have"},
		{"delete element ip sluice cluster-ips { 10.96.0.10 }", "the kernel drops it, as to an address of no Service"},
		{"flush set ip sluice service-cidrs", "the kernel lets it go on unchanged"},
	} {
		w.nft(strings.Fields(change.nft)...)
		o, err := w.engine.Trace(t.Context(), d)
		w.must(err)
		if got := fmt.Sprint(d.Compare(o)); change.want == "" && got != "[]" || !strings.Contains(got, change.want) {
			t.Errorf("after %s: got %s, want %s\n%s", change.nft, got, change.want, strings.Join(o.Rules, "\n"))
		}
	}
}

// TestTraceWords checks the lines that are printed.
func TestTraceWords(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	w.put(service("web", func(s *model.Service) { s.AffinityTimeout = time.Hour }), w.a)
	o, err := w.engine.Trace(t.Context(), proxy.Trace(w.plan, netip.MustParseAddr("192.0.2.1"), vip4Port, proxy.TCP))
	w.must(err)
	got := strings.Join(o.Rules, "\n")
	for _, want := range []string{
		"chain prerouting: goto services",
		"element services { 10.96.0.10 . tcp . 80 : goto service-cluster-1-affinity-3600000 }",
		"chain services: ip daddr . meta l4proto . th dport vmap @services",
		"chain service-cluster-1-affinity-3600000: ip saddr != @pods meta mark set meta mark | 0x00004000",
		"add @affinity { ip saddr . meta priority timeout 1h0m0s }",
		"dnat to ip daddr . meta l4proto . th dport . meta priority map @backends",
		": 10.244.1.10 . 8080 }",
		"masquerade fully-random",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}
