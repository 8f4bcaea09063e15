package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/vm"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy/conntrack"
)

// limitVariable has the path of a file that is the sysctl for how many
// connections the kernel remembers. It is one for all network namespaces, and
// only the first one can set it, wherever that is mounted.
const limitVariable = "SLUICE_CONNTRACK_LIMIT"

// mountLimit mounts the sysctl in a guest, before the lab is entered.
func mountLimit() error {
	if !vm.Guest() || os.Getenv(limitVariable) != "" {
		return nil
	}
	_ = exec.Command("modprobe", "nf_conntrack").Run() // it may be there
	f, err := os.CreateTemp("", "nf_conntrack_max-*")
	if err != nil {
		return err
	}
	_ = f.Close()
	if err := unix.Mount("/proc/sys/net/netfilter/nf_conntrack_max", f.Name(), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount net.netfilter.nf_conntrack_max: %w", err)
	}
	return os.Setenv(limitVariable, f.Name())
}

// CanLimit reports why the process cannot set how many connections the kernel
// remembers: on a machine that has others, it must not.
func CanLimit() error {
	if os.Getenv(limitVariable) == "" {
		return fmt.Errorf("net.netfilter.nf_conntrack_max is the whole machine's")
	}
	return nil
}

func setLimit(n uint32) error {
	return os.WriteFile(os.Getenv(limitVariable), fmt.Appendf(nil, "%d", n), 0)
}

// Full fills the kernel's memory of connections: new ones are dropped then, by
// the kernel and not by an engine. Somebody is told, kept connections go on, the
// engine can be told what it likes, and all is well when there is room again.
func Full(t *testing.T, engine Engine) {
	w := NewWorld(t)
	d := newDriver(t, w, engine)
	o := &objects{w: w, put: map[model.Key]any{}}
	must(t, o.service("web", []string{"nodeport"}))
	must(t, o.endpoints("web", nil, []string{"b"}))
	d.update(t, o.put, "")
	d.check(t, "probe a vip tcp: b\nprobe client nodeport tcp: b")

	var log buffer
	watch := conntrack.NewWatch(w.flows, slog.New(slog.NewTextHandler(&log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = watch.Run(ctx, 50*time.Millisecond) })
	defer group.Wait()
	defer cancel()

	var kept []net.Conn
	for _, client := range []string{"a", "client"} {
		for _, family := range []int{4, 6} {
			to, err := w.destination("vip", family)
			must(t, err)
			for range 10 {
				conn, err := w.hosts[client].dial("tcp", to, patience)
				must(t, err)
				defer func() { _ = conn.Close() }()
				if got := exchange(conn, patience); got.by != "b:8080" {
					t.Fatalf("before: got %v", got)
				}
				kept = append(kept, conn)
			}
		}
	}
	before, err := w.flows.Room(t.Context())
	must(t, err)
	if before.Limit == 0 || before.Entries < uint32(len(kept)) {
		t.Fatalf("the kernel tells of %+v", before)
	}
	// Entries of connections that ended make room for others.
	must(t, setLimit(uint32(len(kept))))
	defer func() { must(t, setLimit(before.Limit)) }()

	to, err := w.destination("vip", 4)
	must(t, err)
	until(t, "a new connection is dropped", func() bool { return w.hosts["a"].ask("tcp", to, quiet).by == Silence })
	until(t, "somebody is told", func() bool {
		return strings.Contains(log.String(), "level=ERROR") && strings.Contains(log.String(), "nf_conntrack_max")
	})
	for _, conn := range kept {
		if got := exchange(conn, patience); got.by != "b:8080" {
			t.Errorf("a kept connection got %v", got)
		}
	}
	for _, name := range []string{"c", "d", "c"} {
		must(t, o.endpoints("web", nil, []string{name}))
		if err := d.apply(t, o.put, ""); err != nil {
			t.Errorf("programming does not work: %v", err)
		}
	}
	if repaired, err := d.engine.Verify(t.Context()); repaired || err != nil {
		t.Errorf("verify: repaired %v, %v", repaired, err)
	}
	for _, conn := range kept {
		if got := exchange(conn, patience); got.by != "b:8080" {
			t.Errorf("a kept connection got %v after changes", got)
		}
	}
	must(t, setLimit(before.Limit))
	d.check(t, "probe a vip tcp: c\nprobe client nodeport tcp: c\nprobe a control tcp: c d")
	until(t, "somebody is told that there is room again", func() bool { return strings.Contains(log.String(), "room again") })
	t.Log(log.String())
}

// until waits for something.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 12*patience {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
