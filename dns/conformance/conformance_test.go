package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
		Zone: "cluster.local", Pods: pods, TTL: 5,
		Pod: netip.MustParseAddr("10.244.7.9"), PodNamespace: "kube-system",
		IPv4: netip.MustParsePrefix("10.96.250.0/24"), IPv6: netip.MustParsePrefix("fd00:10:96::fa00/120"),
	}
}

// running is the Pod of params.
const running = `
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Pod
metadata: {name: runs, namespace: kube-system}
spec: {nodeName: node1, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.244.7.9, podIPs: [{ip: 10.244.7.9}]}
`

// serve starts our server on the objects, read as a directory of manifests is.
func serve(t *testing.T, p conformance.Params) netip.AddrPort {
	t.Helper()
	manifests, err := conformance.Manifests(p)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "objects.yaml"), append(manifests, running...), 0o600); err != nil {
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
			rules := map[string]int{}
			for _, o := range outcomes {
				if o.NotAsked == "" {
					rules[o.Rule]++
				} else {
					rules[o.Rule] += 0
				}
				if o.Err != nil {
					t.Errorf("%s %s (%s %s over %s): %v", o.Rule, o.What, o.Name, mdns.TypeToString[o.Type], o.Network, o.Err)
				}
			}
			// Of some rules no query can tell.
			notAsked := map[string]bool{"C6": true, "C14": true, "C17": true}
			for _, rule := range allRules() {
				asked, ok := rules[rule]
				if !ok || (asked == 0) != notAsked[rule] {
					t.Errorf("rule %s: in the table %v, asked about %d times", rule, ok, asked)
				}
			}
		})
	}
}

// allRules are the rules that the table is about.
func allRules() []string {
	var rules []string
	for i := range 11 {
		rules = append(rules, fmt.Sprintf("S%d", i+1))
	}
	for i := range 18 {
		rules = append(rules, fmt.Sprintf("C%d", i+1))
	}
	return rules
}

// TestNotAsked proves that every rule is in the table, with a reason where nothing
// is asked, also when little is known of the server.
func TestNotAsked(t *testing.T) {
	p := params("disabled")
	server := serve(t, p)
	p.IPv6, p.TTL, p.Pod = netip.Prefix{}, 0, netip.Addr{}
	outcomes, err := conformance.Run(t.Context(), conformance.Target{Server: server}, p)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if failed, err := conformance.Print(&b, outcomes); failed > 0 || err != nil {
		t.Errorf("%d failed, error %v", failed, err)
	}
	table := "\n" + b.String()
	for _, rule := range allRules() {
		if !strings.Contains(table, "\n"+rule+" ") {
			t.Errorf("rule %s is not in the table", rule)
		}
	}
	for _, reason := range []string{"a running server has read them", "no network for IPv6", "no such Pod is given", "is configured with is not given", "needs ServiceImports", "configured to filter"} {
		if !strings.Contains(table, reason) {
			t.Errorf("the table does not say %q", reason)
		}
	}
	if t.Failed() {
		t.Log(table)
	}
}

// TestMissing proves that a server without the objects is told from one that has
// them, or some of them.
func TestMissing(t *testing.T) {
	p := params("disabled")
	target := conformance.Target{Server: serve(t, p)}
	if err := conformance.Missing(t.Context(), target, p); err != nil {
		t.Errorf("all objects are there: %v", err)
	}
	only := func(known string) conformance.Target {
		return conformance.Target{Server: dnstest.NewUpstream(t, func(q *mdns.Msg, _ bool) *mdns.Msg {
			if strings.HasPrefix(q.Question[0].Name, known) {
				return dnstest.Reply(q, mdns.RcodeSuccess)
			}
			return dnstest.Reply(q, mdns.RcodeNameError)
		}).Addr}
	}
	var missing *conformance.MissingError
	if err := conformance.Missing(t.Context(), only("chain-"), p); !errors.As(err, &missing) || missing.All || len(missing.Services) != 13 || missing.Services[0] != "web" {
		t.Errorf("some are missing: %v", err)
	}
	if err := conformance.Missing(t.Context(), only("nothing"), p); !errors.As(err, &missing) || !missing.All || missing.Rcode != mdns.RcodeNameError {
		t.Errorf("all are missing: %v", err)
	}
	silent := conformance.Target{Server: netip.MustParseAddrPort("127.0.0.1:9")}
	if err := conformance.Missing(t.Context(), silent, p); err == nil || errors.As(err, &missing) {
		t.Errorf("no answer: %v", err)
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
		lenient := strings.HasPrefix(o.What, "the additional section") || strings.HasSuffix(o.What, "OPT record where the query has one") || strings.HasPrefix(o.What, "and has none") || o.Rule == "C1" || strings.HasPrefix(o.What, "no PTR") ||
			strings.HasPrefix(o.What, "a query without question") // which the library answers by itself
		if o.Err == nil && !lenient && o.NotAsked == "" {
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
