package hostile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// input is one mistake, or something that looks like one.
type input struct {
	name string
	// good are the manifests, by file, that are in force before; bad are
	// those that come over them.
	good, bad map[string]string
	// arrange puts something into the directory that is no ordinary file.
	arrange func(dir string) error
	// says are the lines of `sluice get problems` that are expected; an
	// ellipsis stands for any text. Nothing means that there is no problem.
	says []string
	// holds is in force, before and after.
	holds check
}

// check returns what is not as it must be.
type check func(context.Context, *world) error

// TestManifests writes every input beside manifests that are in use.
func TestManifests(t *testing.T) {
	w := newWorld(t)
	for name, text := range w.base(t) {
		w.write(t, name, text)
	}
	w.start()
	ways := w.ways()
	for _, way := range ways {
		until(t, "start: "+way.name, func() error {
			select {
			case err := <-w.ended:
				t.Fatalf("sluice ended: %v\n%s", err, w.log)
			default:
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return way.one(ctx)
		})
	}
	until(t, "start", w.quiet)
	since, err := w.proxies()
	if err != nil || len(since) != 1 {
		t.Fatalf("proxies %v, error %v", since, err)
	}
	base, err := w.objects()
	if err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	l := &load{}
	var running sync.WaitGroup
	running.Go(func() { l.run(ctx, ways) })
	defer running.Wait()
	defer stop()
	for _, in := range slices.Concat(services(w), endpoints(w), gateways(t), routes(), meshes(w), texts(w), files(w)) {
		t.Run(in.name, func(t *testing.T) { w.suffer(t, in, l, base, since) })
		if t.Failed() {
			select {
			case err := <-w.ended:
				t.Fatalf("sluice ended: %v\n%s", err, w.log)
			default:
			}
		}
	}
	stop()
	running.Wait()
	if sent, failures := l.counted(); len(failures) > 0 {
		t.Errorf("of %d requests failed:\n%s", sent, strings.Join(failures, "\n"))
	}
	if strings.Contains(w.log.String(), "panic:") || t.Failed() {
		t.Errorf("the log of sluice:\n%s", w.log)
	}
}

// suffer goes through one input.
func (w *world) suffer(t *testing.T, in input, l *load, base []string, since map[string]string) {
	// Whatever comes of it, the next input finds the directory as it was.
	defer func() {
		w.clear(t)
		until(t, "after the repair", func() error {
			if err := w.quiet(); err != nil {
				return err
			}
			now, err := w.objects()
			if err == nil && !slices.Equal(now, base) {
				err = fmt.Errorf("%q are in force, want %q", now, base)
			}
			return err
		})
	}()
	begun, _ := l.counted()
	holds := func(when string) {
		if in.holds == nil {
			return
		}
		limit := 50 * time.Millisecond
		until(t, when, func() error {
			// A connection that began before the rules were there stays
			// without them; the next one has them.
			limit = min(2*limit, patience)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			return in.holds(ctx, w)
		})
	}
	if in.good != nil {
		for _, name := range slices.Sorted(maps.Keys(in.good)) {
			w.write(t, name, in.good[name])
		}
		until(t, "before", w.quiet)
		holds("before")
	}
	for _, name := range slices.Sorted(maps.Keys(in.bad)) {
		w.write(t, name, in.bad[name])
	}
	if in.arrange != nil {
		if err := in.arrange(w.dir); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "a message", func() error {
		lines, err := w.problems()
		if err != nil {
			return err
		}
		if len(in.says) == 0 && len(lines) > 0 {
			return fmt.Errorf("there are problems:\n  %s", strings.Join(lines, "\n  "))
		}
		return found(lines, in.says)
	})
	holds("meanwhile")
	// Some requests more, for what the input may have broken.
	until(t, "load", func() error {
		sent, failures := l.counted()
		if len(failures) > 0 {
			t.Fatalf("requests failed:\n%s", strings.Join(failures, "\n"))
		}
		if sent < begun+len(w.ways()) {
			return fmt.Errorf("%d requests", sent-begun)
		}
		return nil
	})
	now, err := w.proxies()
	if err != nil {
		t.Fatal(err)
	}
	for name, connected := range since {
		if now[name] != connected {
			t.Errorf("the Envoy %s is connected since %q, not since %s", name, now[name], connected)
		}
	}
}

// quiet returns an error if there is a problem.
func (w *world) quiet() error {
	lines, err := w.problems()
	if err == nil && len(lines) > 0 {
		err = errors.New("problems remain:\n  " + strings.Join(lines, "\n  "))
	}
	return err
}

// clear removes all but the base.
func (w *world) clear(t *testing.T) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if slices.Contains([]string{"base.yaml", "gateway.yaml", "route.yaml"}, e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(w.dir, e.Name())); err != nil {
			t.Error(err)
		}
	}
}

// one is a manifest in a file of its own.
func one(text string) map[string]string { return map[string]string{"x.yaml": text} }

// serves says that an address is answered by a pod.
func serves(addresses ...string) check {
	return func(ctx context.Context, w *world) error {
		for _, a := range addresses {
			if err := w.dial(ctx, a); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		return nil
	}
}

// routesHost says that the Gateway answers for a host.
func routesHost(host, path string) check {
	return func(ctx context.Context, w *world) error {
		c := w.client.HTTPClient()
		c.Timeout = patience
		return get(ctx, c, "http", w.node.IPv4().String(), host, path)
	}
}

// answers says that the DNS server has an address of a name.
func answers(name, address string) check {
	return func(ctx context.Context, w *world) error {
		ips, err := w.lookup(ctx, name)
		if err == nil && ips[0].String() != address {
			err = fmt.Errorf("%s has %v, not %s", name, ips, address)
		}
		return err
	}
}

// all says that several things hold.
func all(fs ...check) check {
	return func(ctx context.Context, w *world) error {
		for _, f := range fs {
			if err := f(ctx, w); err != nil {
				return err
			}
		}
		return nil
	}
}
