package nftables

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// TestDormant detaches whole tables and changes what their chains do with
// packets that no rule decides: that is seen, repaired once, and by a start, too.
func TestDormant(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", nil), w.b)
	works := func(after string) {
		t.Helper()
		for _, to := range []netip.AddrPort{vip4Port, vip6Port} {
			if got := w.ask(w.a.Namespace, "tcp", to); !strings.HasPrefix(got, "b ") {
				t.Errorf("after %s: %s: %s", after, to, got)
			}
		}
	}
	works("nothing")
	for _, damage := range []string{
		"add table ip sluice { flags dormant; }",
		"add table ip sluice { flags dormant; }; add table ip6 sluice { flags dormant; }",
		"add table ip sluice { flags dormant; }; flush map ip sluice services",
		"chain ip sluice output { policy drop; }; chain ip6 sluice postrouting { policy drop; }",
		"add chain ip sluice evil { type filter hook prerouting priority -300; policy drop; }",
	} {
		w.nft(damage)
		for i, want := range []bool{true, false} {
			repaired, err := w.engine.Verify(t.Context())
			w.must(err)
			if repaired != want {
				t.Errorf("after %s, look %d: repaired is %v", damage, i, repaired)
			}
			w.engine.rested = time.Time{} // chains of others go as garbage
		}
		works(damage)
	}
	for _, damage := range []string{
		"add table ip sluice { flags dormant; }; add table ip6 sluice { flags dormant; }",
		"chain ip sluice prerouting { policy drop; }",
	} {
		w.nft(damage)
		_ = w.engine.Close()
		w.engine = w.newEngine()
		w.must(w.engine.Sync(t.Context(), w.plan))
		works("a start behind " + damage)
	}
}

// TestRemoved changes a Service when somebody has removed a table: the error says
// so, and asks for no module.
func TestRemoved(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", nil), w.b)
	w.nft("delete table ip sluice")
	w.store.Update(func(tx *model.Txn) { putSlices(tx, w.slicesOf("web", 1, w.b, w.c)) })
	up, err := w.watch.Next(t.Context())
	w.must(err)
	changes := w.planner.Update(up)
	err = w.engine.Apply(t.Context(), changes)
	var gone *RemovedError
	if !errors.As(err, &gone) || !errors.Is(err, unix.ENOENT) {
		t.Fatalf("a change without its table: %v", err)
	}
	if text := err.Error(); !strings.Contains(text, "somebody else has removed the table") || strings.Contains(text, "module") {
		t.Errorf("it says %q", text)
	}
	w.must(w.engine.Sync(t.Context(), changes.New))
	if got := w.count(20, vip4Port); got["b"]+got["c"] != 20 {
		t.Errorf("when it is made again: %v", got)
	}
}
