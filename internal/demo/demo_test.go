package demo

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/internal/showcase"
	"github.com/sluicenet/sluice/manifests/examples"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

func testWorld(t *testing.T) *world {
	t.Helper()
	needsLab(t)
	w, err := newWorld(t.TempDir(), examples.Quickstart())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// needsLab skips where there can be no lab.
func needsLab(t *testing.T) {
	t.Helper()
	lab.ForTest(t, lab.Options{}).Close()
}

// TestWorld builds the network of the quick start and asks its servers.
func TestWorld(t *testing.T) {
	w := testWorld(t)
	defer func() {
		w.close()
		if _, err := os.Stat(w.dir); err == nil {
			t.Errorf("%s is left", w.dir)
		}
	}()
	if len(w.nodes) != 2 || len(w.pods) != 9 || len(w.meshed) != 3 {
		t.Errorf("%d nodes, %d pods, %d with a sidecar", len(w.nodes), len(w.pods), len(w.meshed))
	}
	toolbox := w.pods["toolbox"].Namespace
	for name, pod := range w.pods {
		for _, ip := range pod.Addrs() {
			for _, network := range []string{"tcp", "udp"} {
				if who, err := showcase.Line(toolbox, network, netip.AddrPortFrom(ip, 9000))(t.Context()); err != nil || who != name {
					t.Errorf("%s %v: %q, %v", network, ip, who, err)
				}
			}
			answer, err := showcase.HTTP(toolbox, netip.AddrPortFrom(ip, 8080), "somebody").Get(t.Context())
			if err != nil || answer.Name != name || answer.Host != "somebody" {
				t.Errorf("%v: %+v, %v", ip, answer, err)
			}
		}
	}
	promote := strings.NewReplacer("weight: 90}", "weight: 100}").Replace
	if at, err := w.edit("canary.yaml", promote); err != nil || time.Since(at) > time.Minute {
		t.Errorf("edit: %v, %v", at, err)
	}
	if b, err := os.ReadFile(filepath.Join(w.manifests(), "canary.yaml")); err != nil || !strings.Contains(string(b), "weight: 100}") {
		t.Errorf("after the edit: %v\n%s", err, b)
	}
	if _, err := w.edit("canary.yaml", promote); err == nil {
		t.Error("an edit without effect is no error")
	}
}

// TestProcess has a process end on its own, and another be killed.
func TestProcess(t *testing.T) {
	w := testWorld(t)
	defer w.close()
	ctx, fail := context.WithCancelCause(t.Context())
	w.fail = fail
	ns := w.pods["web-1"].Namespace
	p, err := w.start(ns, "sleep in web-1", "sh", "-c", "echo one; echo two; exec sleep 600")
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); p.tail(1) != "two" && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := p.tail(9); got != "one\ntwo" {
		t.Errorf("wrote %q", got)
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("a kill was taken for an accident: %v", context.Cause(ctx))
	}
	if err := w.again(p); err != nil {
		t.Fatal(err)
	}
	if _, err := w.start(ns, "false in web-1", "false"); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if got := context.Cause(ctx).Error(); got != "false in web-1 ended: exit status 1" {
		t.Errorf("cause: %q", got)
	}
}
