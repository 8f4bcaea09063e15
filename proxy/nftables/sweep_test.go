package nftables

import (
	"strings"
	"testing"
	"time"
)

// TestSweep has somebody put slots there that nobody knows of. A new process
// finds and removes them, and the slots that the old one had not yet removed.
func TestSweep(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	w.put(service("web", nil), w.b, w.c)
	w.put(service("web", nil), w.b) // leaves slots to rest
	w.nft("add", "element", "ip", "sluice", "slots", "{ 10.96.9.9 . tcp . 80 . 7 : 10.0.0.1 . 80 }")
	w.nft("add", "element", "ip", "sluice", "nodeport-backends", "{ tcp . 80 . 0:7 : 10.0.0.1 . 80 }")
	w.engine = w.newEngine()
	w.must(w.engine.Sync(t.Context(), w.plan))
	for round := 0; w.engine.sweeping() || len(w.engine.garbage) > 0; round++ {
		if round == 1000 {
			t.Fatal("still sweeping")
		}
		w.engine.rested = time.Time{}
		repaired, err := w.engine.Verify(t.Context())
		w.must(err)
		if repaired {
			t.Error("slots that nothing points at are no drift")
		}
	}
	found, err := w.engine.everything(t.Context())
	w.must(err)
	if !w.engine.sameElements(found) {
		t.Errorf("there are other elements than the plan's:\n%s", w.nft("list", "ruleset"))
	}
	if got := w.ask(w.a.Namespace, "tcp", vip4Port); !strings.HasPrefix(got, "b ") {
		t.Error(got)
	}
}

// TestHears checks that the tables are read only if somebody has changed them.
func TestHears(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	w.put(service("web", nil), w.b)
	verify := func() {
		t.Helper()
		_, err := w.engine.Verify(t.Context())
		w.must(err)
	}
	verify()
	looked := w.engine.drift.looked
	w.nft("add", "table", "ip", "foreign")
	w.nft("add", "chain", "ip", "foreign", "sluice")
	w.put(service("web", nil), w.c)
	verify()
	if w.engine.drift.looked != looked {
		t.Error("the tables were read for somebody else's change of their own")
	}
	w.nft("flush", "map", "ip", "sluice", "services")
	verify()
	if w.engine.drift.looked.Equal(looked) {
		t.Error("the tables were not read after somebody had changed them")
	}
	if got := w.ask(w.a.Namespace, "tcp", vip4Port); !strings.HasPrefix(got, "c ") {
		t.Error(got)
	}
}
