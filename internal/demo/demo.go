// Package demo shows on one machine, without a cluster, what sluice does: it
// builds the network of the quick start's manifests out of namespaces, runs the
// real sluice on them, and counts what arrives where.
//
// Everything is in namespaces of the demo's own (see package lab), so nothing of
// the machine's network is touched, no root is needed where the kernel lets
// users make namespaces, and nothing is left behind, also after SIGKILL.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/internal/showcase"
	"github.com/sluicenet/sluice/manifests/examples"
)

// Options says how the demo runs. The zero value shows it on standard output.
type Options struct {
	Out    io.Writer
	Binary string // sluice; default: this program
	Envoy  string // default: found as sluice finds it
	// Keep leaves the lab running when the table is complete, until interrupted.
	Keep bool
	// Verbose shows what the processes write.
	Verbose bool
}

// ErrFailed is wrapped by the error for lines that were not as expected.
var ErrFailed = errors.New("not as expected")

var errInterrupted = errors.New("interrupted")

// Run shows the demo. Call it from the program's first goroutine: it enters the
// lab's namespaces by [lab.Enter], which starts the program again.
func Run(ctx context.Context, o Options) error {
	if err := lab.Enter(); err != nil {
		return err
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	started := time.Now()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	d, err := prepare(o, fail)
	if err != nil {
		return err
	}
	defer d.close()
	err = d.show(ctx)
	// What fails after an interrupt is no finding, and a process that ended by
	// itself is why the rest fails.
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, context.Canceled):
		return errInterrupted
	case cause != nil:
		err = cause
	}
	if err == nil {
		d.table.Summary(time.Since(started))
	}
	if all, failed := d.table.Lines(); err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d lines: %w", failed, all, ErrFailed)
	}
	if err != nil && !o.Verbose {
		d.tails()
	}
	if o.Keep && ctx.Err() == nil {
		d.keep(ctx)
	}
	return err
}

// demo is a running demonstration.
type demo struct {
	*world
	out      io.Writer
	table    *showcase.Table
	binary   string
	envoy    string
	place    *showcase.Place
	sidecars int      // that run
	up       *process // sluice up on node1
	node     *process // sluice node on node2
}

// prepare finds the programs and builds the network.
func prepare(o Options, fail context.CancelCauseFunc) (_ *demo, err error) {
	d := &demo{out: o.Out, table: showcase.NewTable(o.Out), binary: o.Binary}
	if d.binary == "" {
		if d.binary, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	if d.envoy, err = envoy.Find(o.Envoy); err != nil {
		return nil, err
	}
	d.table.Note("building two nodes, their Pods and a client outside, of network namespaces")
	dir, bound, err := d.makeDir(o.Keep)
	if err != nil {
		return nil, err
	}
	if d.world, err = newWorld(dir, examples.Quickstart()); err != nil {
		return nil, err
	}
	d.fail, d.bound = fail, bound
	if o.Verbose {
		d.follow = newFollower(o.Out)
	}
	if d.place, err = d.newPlace(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// makeDir makes the directory of all files, with the programs in it, for the
// sidecars' user cannot look into the home directory that they may be in. Only
// one that is to be looked at from other terminals is seen outside.
func (d *demo) makeDir(visible bool) (dir string, bound []func() error, err error) {
	if visible {
		dir, err = os.MkdirTemp("", "sluice-demo-")
	} else {
		dir, err = lab.TempDir(d.binary, d.envoy)
	}
	if err != nil {
		return "", nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, err
	}
	for name, program := range map[string]*string{"sluice": &d.binary, "envoy": &d.envoy} {
		at := filepath.Join(dir, name)
		unbind, err := lab.Bind(*program, at)
		if err != nil {
			return "", nil, err
		}
		bound = append(bound, unbind)
		*program = at
	}
	return dir, bound, nil
}

// show runs sluice and writes the table. It returns an error where the table
// cannot be completed; lines that fail are counted in the table.
func (d *demo) show(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.startNodes, d.startSidecars, d.place.Show,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// tails writes the end of what each process wrote.
func (d *demo) tails() {
	for _, p := range d.procs {
		_, _ = fmt.Fprintf(d.out, "\n--- the last lines of %s:\n%s\n", p.name, p.tail(20))
	}
}

// keep waits for the interrupt.
func (d *demo) keep(ctx context.Context) {
	d.table.Section("The lab keeps running until ^C. From another terminal:")
	d.table.Note("%s get services -A --socket %s", cmp.Or(os.Args[0], "sluice"), d.socket("node1"))
	d.table.Note("edit %s", d.manifests())
	d.table.Note("logs: %s/*.log", d.dir)
	<-ctx.Done()
}
