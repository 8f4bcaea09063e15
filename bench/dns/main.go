// Command dns measures name servers by turns, all pinned to one core, each in a
// network namespace of its own: ours, and those others that the machine has
// (CoreDNS by its path, in the configuration of NodeLocal DNSCache; Unbound and
// dnsmasq from Debian). Behind each is the same upstream, on the other core with
// the load, which dnsperf makes.
//
//	make bench-dns
//	go run ./bench/dns -coredns /usr/local/bin/coredns -json dns.json
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/bench/internal/machine"
	"github.com/sluicenet/sluice/internal/lab"
)

func main() {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	sluice, coredns string
	length          time.Duration
	rate, repeat    int
	verbose         bool
}

// report is what -json writes.
type report struct {
	Machine string    `json:"machine"`
	Results []result  `json:"results"`
	Latency []latency `json:"latency"`
	Memory  []memory  `json:"memory,omitempty"`
}

// pin keeps this process, which is the upstream, off the core of the servers. Threads
// that are there already are moved one by one; later ones inherit it.
func pin(core int) error {
	var only unix.CPUSet
	only.Set(core)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, &only); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin to core %d: %w", core, err)
		}
	}
	return nil
}

// measure starts all servers, and measures those that are there.
func (r *report) measure(ctx context.Context, o options, subjects []subject) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var worlds []*world
	for _, s := range subjects {
		w, err := newWorld(ctx, o, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer w.close()
		worlds = append(worlds, w)
	}
	var err error
	if r.Results, err = measure(ctx, o, worlds); err != nil {
		return err
	}
	fmt.Print(summary(r.Results))
	r.Latency, err = measureLatency(ctx, o, worlds)
	return err
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the binary to measure")
	flag.StringVar(&o.coredns, "coredns", "", "a CoreDNS to measure beside it")
	only := flag.String("only", "sluice,coredns,unbound,dnsmasq", "which servers, of those that are there")
	flag.DurationVar(&o.length, "length", 5*time.Second, "length of each measurement; for the latency times -repeat")
	flag.IntVar(&o.rate, "rate", 10000, "queries a second for the latency")
	cluster := flag.Int("memory", 10_000, "Services of the cluster with which our memory is measured; 0: it is not")
	flag.IntVar(&o.repeat, "repeat", 1, "how often to measure each server, by turns")
	flag.BoolVar(&o.verbose, "v", false, "show the logs of the servers")
	out := flag.String("json", "", "file for the figures")
	flag.Parse()
	var err error
	if err := pin(otherCore); err != nil {
		return err
	}
	if o.sluice, err = filepath.Abs(o.sluice); err != nil {
		return err
	}
	m, err := machine.Describe()
	if err != nil {
		return err
	}
	r := report{Machine: m}
	fmt.Println(m)
	if err := r.measure(ctx, o, subjectsOf(o, strings.Split(*only, ","))); err != nil {
		return err
	}
	if *cluster > 0 {
		m, err := measureMemory(ctx, o, *cluster)
		if err != nil {
			return fmt.Errorf("memory: %w", err)
		}
		fmt.Println(m)
		r.Memory = append(r.Memory, m)
	}
	if *out == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(b, '\n'), 0o644)
}
