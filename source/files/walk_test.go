package files

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
)

// TestWalk edits a directory at random, as fast as it can, and compares what
// the source makes of it in the end with what a new one does.
func TestWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 4))
	f := start(t)
	file := func() string {
		return f.path([]string{"", "x/", "x/y/", "z/"}[r.IntN(4)] + fmt.Sprintf("%d.yaml", r.IntN(6)))
	}
	text := func() string {
		var docs []string
		for range 1 + r.IntN(3) {
			docs = append(docs, service(fmt.Sprintf("s%02d", r.IntN(15)), 1+r.IntN(1000)))
		}
		return strings.Join(docs, "---\n")
	}
	for round := range 8 {
		for range 60 {
			name := file()
			_ = os.MkdirAll(filepath.Dir(name), 0o755)
			switch r.IntN(8) {
			case 0, 1, 2:
				f.do(os.WriteFile(name, []byte(text()), 0o644))
			case 3:
				f.do(os.WriteFile(name+".tmp", []byte(text()), 0o644))
				f.do(os.Rename(name+".tmp", name))
			case 4:
				_ = os.Remove(name)
			case 5:
				_ = os.Rename(name, file())
			case 6:
				_ = os.RemoveAll(f.path("x/y"))
			case 7:
				_ = os.RemoveAll(f.path("moved"))
				_ = os.Rename(f.path("z"), f.path("moved"))
			}
		}
		fresh := model.NewStore()
		src := New(Options{Dir: f.dir, Store: fresh, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- src.Run(ctx) }()
		<-src.Ready()
		want := servicePorts(fresh.Snapshot())
		problems := fmt.Sprint(messages(src))
		f.until(fmt.Sprintf("round %d: %s", round, want), func(s *model.Snapshot) bool {
			return servicePorts(s) == want && fmt.Sprint(messages(f.src)) == problems
		})
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// messages returns the problems but those of addresses, which depend on who
// came first.
func messages(s *Source) []string {
	var out []string
	for _, p := range s.Problems() {
		if !strings.Contains(p.Error(), "belongs to") {
			out = append(out, p.Error())
		}
	}
	slices.Sort(out)
	return out
}

// BenchmarkEdit is the time from the write of a file to the model, among so
// many Services in files of ten.
func BenchmarkEdit(b *testing.B) {
	for _, services := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			dir := b.TempDir()
			for i := range services / 10 {
				var docs []string
				for j := range 10 {
					docs = append(docs, service(fmt.Sprintf("s%05d", 10*i+j), 80))
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d.yaml", i)), []byte(strings.Join(docs, "---\n")), 0o644); err != nil {
					b.Fatal(err)
				}
			}
			store := model.NewStore()
			src := New(Options{Dir: dir, Store: store, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- src.Run(ctx) }()
			defer func() { cancel(); <-done }()
			<-src.Ready()
			w := store.Watch()
			defer w.Stop()
			if _, err := w.Next(ctx); err != nil {
				b.Fatal(err)
			}
			port := 80
			for b.Loop() {
				port = port%60000 + 1
				if err := os.WriteFile(filepath.Join(dir, "edited.yaml"), []byte(service("edited", port)), 0o644); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Next(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
