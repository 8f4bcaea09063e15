package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

func TestMain(m *testing.M) {
	// A fuzzing worker talks by descriptors that do not survive the lab's start.
	for _, arg := range os.Args {
		if strings.HasPrefix(arg, "-test.fuzz=") || arg == "-test.fuzzworker" {
			os.Exit(m.Run())
		}
	}
	os.Exit(lab.Main(m))
}

// variants runs a test with each variant, in a namespace of its own.
func variants(t *testing.T, f func(t *testing.T, node *lab.Node, o Options)) {
	for _, v := range []Variant{NFT, Legacy} {
		t.Run(string(v), func(t *testing.T) {
			if _, err := exec.LookPath("iptables-" + string(v)); err != nil {
				if os.Getenv("CI") != "" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
			node := lab.ForTest(t, lab.Options{}).MustNode("node1")
			f(t, node, Options{Variant: v, NetNS: node.FD()})
		})
	}
}

func newEngine(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

var errInjected = errors.New("injected failure")

// TestKernelWalk makes random steps, some of which fail, and compares what
// iptables-save prints with what a start from nothing would write.
func TestKernelWalk(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		random := rand.New(rand.NewPCG(1, 2))
		o.Intercept = func(do func() error) error {
			switch random.IntN(20) {
			case 0:
				return errInjected
			case 1: // the answer is lost
				return errors.Join(do(), errInjected)
			}
			return do()
		}
		serial := make(chan struct{}, 1)
		inner := o.Intercept
		o.Intercept = func(do func() error) error {
			serial <- struct{}{}
			defer func() { <-serial }()
			return inner(do)
		}
		e := newEngine(t, o)
		p := newPlanned(clusterConfig)
		changes := p.update(t, func(tx *model.Txn) { model.Nodes.Put(tx, node1()) })
		err := errInjected
		walk := proxytest.NewWalk(5)
		failed := 0
		for step := range 120 {
			for err != nil { // as proxy.Run does
				if !errors.Is(err, errInjected) {
					t.Fatalf("step %d: %v", step, err)
				}
				failed++
				err = e.Sync(t.Context(), changes.New)
			}
			for _, f := range families {
				found, err := list(t.Context(), e.kernel, f)
				if err != nil {
					t.Fatal(err)
				}
				if s := newRuleset(e.renderer(f, &changes.New.Node)).compare(found, changes.New.Services(), nil); !s.empty() {
					t.Fatalf("step %d: %s differs from the plan by\n%s", step, f, s.text())
				}
			}
			if step%20 == 5 {
				e.looks, e.canary.odd = share{}, true // somebody may have changed something
				if repaired, err := e.Verify(t.Context()); repaired || err != nil {
					t.Fatalf("step %d: verify: %v, %v", step, repaired, err)
				}
			}
			changes = p.update(t, walk.Step)
			err = e.Apply(t.Context(), changes)
		}
		if failed < 3 {
			t.Errorf("%d failures were injected", failed)
		}
	})
}

// dump returns what is in the kernel, of both variants.
func dump(t *testing.T, node *lab.Node) string {
	t.Helper()
	var b strings.Builder
	for _, program := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		for _, table := range []string{"nat", "filter"} {
			out, err := node.Command(t.Context(), program, "-t", table).Output()
			if err != nil {
				t.Fatalf("%s: %v", program, err)
			}
			for line := range bytes.Lines(out) {
				if bytes.HasPrefix(line, []byte("-A")) || bytes.HasPrefix(line, []byte(":"+prefix)) {
					fmt.Fprintf(&b, "%s %s %s", program, table, line)
				}
			}
		}
	}
	return b.String()
}

// TestCleanup checks that an engine that knows nothing removes everything of both
// variants, and nothing of others.
func TestCleanup(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		p := newPlanned(clusterConfig)
		plan := p.update(t, func(tx *model.Txn) {
			model.Nodes.Put(tx, node1())
			model.Services.Put(tx, web(nil))
			model.EndpointSlices.Put(tx, slice(1, 1, 2))
		}).New
		for _, line := range []string{"-N OTHERS", "-A PREROUTING -j OTHERS", "-A OTHERS -p tcp -m comment --comment \"two words\" -j RETURN"} {
			cmd := node.Command(t.Context(), "sh", "-c", "iptables-"+string(o.Variant)+" -t nat "+line)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
		before := dump(t, node)
		if err := newEngine(t, o).Sync(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		if after := dump(t, node); !strings.Contains(after, "DNAT") {
			t.Fatalf("nothing was programmed:\n%s", after)
		}
		other := o
		other.Variant = map[Variant]Variant{NFT: Legacy, Legacy: NFT}[o.Variant]
		for range 2 {
			if err := newEngine(t, other).Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := dump(t, node); after != before {
				t.Fatalf("left behind:\n%s\nthere was:\n%s", after, before)
			}
		}
	})
}

// TestVariantSwitch checks that the start of one variant replaces the other's rules.
func TestVariantSwitch(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		plan := newPlanned(clusterConfig).update(t, func(tx *model.Txn) {
			model.Services.Put(tx, web(nil))
			model.EndpointSlices.Put(tx, slice(1, 1, 2))
		}).New
		other := o
		other.Variant = map[Variant]Variant{NFT: Legacy, Legacy: NFT}[o.Variant]
		for _, o := range []Options{o, other} {
			if err := newEngine(t, o).Sync(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
		}
		after := dump(t, node)
		if strings.Contains(after, "-"+string(o.Variant)+"-") || !strings.Contains(after, "-"+string(other.Variant)+"-") {
			t.Errorf("after switching to %s there is\n%s", other.Variant, after)
		}
	})
}

// TestLocked checks that a lock that is not given back is named, with its holder.
func TestLocked(t *testing.T) {
	variants(t, func(t *testing.T, _ *lab.Node, o Options) {
		if o.Variant == NFT {
			return // it has no lock
		}
		e := newEngine(t, o)
		plan := newPlanned(clusterConfig).update(t, func(tx *model.Txn) { model.Services.Put(tx, web(nil)) }).New
		if err := e.probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(lockPath(), os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		err = e.Sync(t.Context(), plan)
		var lock *LockError
		if !errors.As(err, &lock) || lock.Path != lockPath() || !strings.Contains(lock.Holder, fmt.Sprint(os.Getpid())) {
			t.Errorf("while this process held the lock: %v (%+v)", err, lock)
		}
		_ = f.Close()
		if err := e.Sync(t.Context(), plan); err != nil {
			t.Error(err)
		}
	})
}

// TestCount checks that connections are counted by frontend, and that the counts
// of others survive a change.
func TestCount(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		e := newEngine(t, o)
		p := newPlanned(clusterConfig)
		load := func(name string, last byte) func(tx *model.Txn) {
			return func(tx *model.Txn) {
				s := web(func(s *model.Service) {
					s.Name, s.ClusterIPs, s.Families = name, []netip.Addr{netip.AddrFrom4([4]byte{10, 96, last, 10})}, s.Families[:1]
				})
				model.Services.Put(tx, s)
			}
		}
		changes := p.update(t, load("web", 0))
		if err := e.Sync(t.Context(), changes.New); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			c, err := node.DialContext(t.Context(), "tcp", "10.96.0.10:80") // refused, and counted
			if err == nil {
				_ = c.Close()
			}
		}
		if err := e.Apply(t.Context(), p.update(t, load("other", 1))); err != nil {
			t.Fatal(err)
		}
		counts := map[string]uint64{}
		if err := e.Count(context.Background(), func(k proxy.FrontendKey, n proxy.Traffic) { counts[k.String()] = n.Connections }); err != nil {
			t.Fatal(err)
		}
		if len(counts) != 1 || sum(counts) < 3 {
			t.Errorf("after three connections: %v", counts)
		}
	})
}

func sum(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// TestMissing checks that what is missing is an error that says what to do.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := New(Options{Log: slog.New(slog.DiscardHandler)})
	var u *proxy.UnsupportedError
	if !errors.As(err, &u) || u.Remedy == "" {
		t.Errorf("without iptables: %v", err)
	}
}

// TestProbe checks that probing changes nothing.
func TestProbe(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		if err := Probe(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if after := dump(t, node); after != "" {
			t.Errorf("probing left\n%s", after)
		}
	})
}
