package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicenet/sluice/bench/internal/apiserver"
	"github.com/sluicenet/sluice/internal/lab"
)

// result is what was measured of one proxy with one number of Services.
type result struct {
	Proxy     string `json:"proxy"`
	Mode      string `json:"mode"`
	Services  int    `json:"services"`
	Endpoints int    `json:"endpoints_each"`
	// ColdSeconds is from the start of the process until it has programmed all;
	// ColdKernelSeconds is what of that its own metrics say programming took.
	ColdSeconds       float64 `json:"cold_s"`
	ColdKernelSeconds float64 `json:"cold_kernel_s"`
	// EndpointKernel is the time in which one changed endpoint is programmed, by
	// the proxy's own metrics: the median of as many as there are writes.
	EndpointKernel float64 `json:"endpoint_kernel_ms,omitempty"`
	// WriteP50 and WriteP99 are from the write of a new Service and its endpoint
	// to the API server until the first connection is accepted.
	WriteP50 float64 `json:"write_p50_ms,omitempty"`
	WriteP99 float64 `json:"write_p99_ms,omitempty"`
	Memory   float64 `json:"memory_mib"`
	// Guest tells that the processor was emulated.
	Guest bool `json:"guest,omitempty"`

	Traffic *traffic `json:"traffic,omitempty"`
}

func (r result) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%-20s %6d x %-3d cold %8.2f s (kernel %8.3f s)  memory %6.1f MiB", r.Proxy+" "+r.Mode, r.Services, r.Endpoints, r.ColdSeconds, r.ColdKernelSeconds, r.Memory)
	if r.WriteP50 > 0 {
		_, _ = fmt.Fprintf(w, "  endpoint %8.3f ms  write -> connection p50 %7.1f p99 %7.1f ms", r.EndpointKernel, r.WriteP50, r.WriteP99)
	}
	_, _ = fmt.Fprintln(w)
	if t := r.Traffic; t != nil {
		_, _ = fmt.Fprintf(w, "%20s through a ClusterIP, of direct: connections/s %.2f (%.0f/s)  first packet p50 %+.1f µs p99 %+.1f µs  throughput %.2f (%.1f Gbit/s)\n",
			"", t.RateRatio, t.Rate, t.FirstPacketP50, t.FirstPacketP99, t.ThroughputRatio, t.Throughput)
	}
}

// world is a node with pods, an API server in it, and a proxy.
type world struct {
	lab     *lab.Lab
	node    *lab.Node
	client  *lab.Pod
	servers []*lab.Pod
	api     *apiserver.Server
	dir     string
	log     *os.File
	metrics *http.Client
	self    string
}

func newWorld(ctx context.Context, o options) (w *world, err error) {
	w = &world{api: apiserver.New(resources)}
	if w.lab, err = lab.New(lab.Options{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if w.dir, err = os.MkdirTemp("", "sluice-bench-"); err != nil {
		return nil, err
	}
	w.log = os.Stderr
	if !o.verbose {
		if w.log, err = os.Create(filepath.Join(w.dir, "log")); err != nil {
			return nil, err
		}
	}
	if w.node, err = w.lab.Node("node1"); err != nil {
		return nil, err
	}
	w.metrics = w.node.HTTPClient()
	if w.client, err = w.node.Pod("client"); err != nil {
		return nil, err
	}
	for i := range 2 {
		pod, err := w.node.Pod(fmt.Sprintf("server%d", i))
		if err != nil {
			return nil, err
		}
		w.servers = append(w.servers, pod)
		for _, c := range []*lab.Cmd{pod.Command(ctx, w.self, "pod-serve"), pod.Command(ctx, "iperf3", "--server")} {
			c.Stderr = w.log
			if err := c.Start(); err != nil {
				return nil, err
			}
		}
	}
	l, err := w.node.Listen("tcp", apiAddress)
	if err != nil {
		return nil, err
	}
	go func() { _ = http.Serve(l, w.api) }()
	return w, nil
}

func (w *world) close() {
	w.lab.Close()
	_ = os.RemoveAll(w.dir)
}

// logTail returns the end of the proxy's log.
func (w *world) logTail() string {
	b, err := os.ReadFile(filepath.Join(w.dir, "log"))
	if err != nil {
		return ""
	}
	return string(b[max(0, len(b)-1<<12):])
}

// live returns the address of the i-th Service that is made while the proxy runs.
func live(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 111, byte(i >> 8), byte(i)}) }

func measure(ctx context.Context, o options, s subject, services, endpoints int, withTraffic bool) (result, error) {
	r := result{Proxy: s.name, Mode: s.mode, Services: services, Endpoints: endpoints}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := newWorld(ctx, o)
	if err != nil {
		return r, err
	}
	defer w.close()
	// Those that are asked for sort behind all others.
	last := netip.AddrPortFrom(live(0), port)
	fill(w.api, w.node.Name(), w.node.IPv4(), services, endpoints)
	w.api.Put(service("zz-live-0", live(0)), slice("zz-live-0", w.servers[0].IPv4()))
	w.api.Put(iperf(w.servers[0].IPv4())...)

	watcher, err := w.watcher(ctx, o)
	if err != nil {
		return r, err
	}
	start := time.Now()
	cmd, err := s.start(ctx, w.node, w.dir, w.log)
	if err != nil {
		return r, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := w.programmed(ctx, s, o.limit, ended); err != nil {
		return r, fmt.Errorf("%w\n%s", err, w.logTail())
	}
	r.ColdSeconds = time.Since(start).Seconds()
	if _, err := watcher.first(last); err != nil {
		return r, fmt.Errorf("%w\n%s", err, w.logTail())
	}
	r.ColdKernelSeconds, _, err = w.syncs(s)
	if err != nil {
		return r, err
	}
	if withTraffic {
		if err := w.writes(o, s, watcher, &r); err != nil {
			return r, fmt.Errorf("%w\n%s", err, w.logTail())
		}
		if r.Traffic, err = w.traffic(ctx, o, last); err != nil {
			return r, err
		}
	}
	time.Sleep(15 * time.Second) // what the start left is given back by then, or never
	if r.Memory, err = resident(cmd.Process.Pid); err != nil {
		return r, err
	}
	cancel()
	<-ended //nolint:errcheck // it says that it was killed
	return r, nil
}

// programmed waits until the proxy has programmed the kernel at least once.
func (w *world) programmed(ctx context.Context, s subject, limit time.Duration, ended <-chan error) error {
	deadline := time.After(limit)
	for {
		if _, n, err := w.syncs(s); err == nil && n > 0 {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended: %w", s, err)
		case <-deadline:
			return fmt.Errorf("%s has programmed nothing after %v", s, limit)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// syncs asks the proxy how long it programmed the kernel, and how often.
func (w *world) syncs(s subject) (seconds, count float64, err error) {
	resp, err := w.metrics.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		return 0, 0, err
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return 0, 0, err
	}
	sumName, countName := s.syncs()
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "{")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case sumName:
			seconds += v
		case countName:
			count += v
		}
	}
	return seconds, count, nil
}

// writes measures the time from the write of a Service and its endpoint to the
// first connection, and then that of single endpoints in the kernel.
func (w *world) writes(o options, s subject, watcher *watcher, r *result) error {
	n := o.writes
	if s.peer {
		n = max(1, n/5) // each takes about a second
	}
	var took []time.Duration
	for i := range n {
		name, addr := fmt.Sprintf("zz-live-%d", i+1), live(i+1)
		if err := watcher.begin(netip.AddrPortFrom(addr, port)); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
		start := time.Now()
		w.api.Put(service(name, addr), slice(name, w.servers[0].IPv4()))
		at, err := watcher.end()
		if err != nil {
			return err
		}
		took = append(took, at.Sub(start))
	}
	slices.Sort(took)
	r.WriteP50 = milliseconds(took[len(took)/2])
	r.WriteP99 = milliseconds(took[min(len(took)-1, len(took)*99/100)])

	before, count, err := w.syncs(s)
	if err != nil {
		return err
	}
	var programmed []float64
	for i := range n {
		w.api.Put(slice("service-0", endpointAddr(1<<22+i)))
		for deadline := time.Now().Add(time.Minute); ; {
			time.Sleep(20 * time.Millisecond) // who tells metrics meanwhile programs slower
			if after, now, err := w.syncs(s); err == nil && now > count {
				programmed = append(programmed, (after-before)/(now-count)*1000)
				before, count = after, now
				break
			}
			if time.Now().After(deadline) {
				return errors.New("an endpoint was not programmed after a minute")
			}
		}
	}
	slices.Sort(programmed)
	r.EndpointKernel = programmed[len(programmed)/2]
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// watcher tells when a connection to an address is accepted first.
type watcher struct {
	in  io.Writer
	out *bufio.Scanner
}

func (w *world) watcher(ctx context.Context, o options) (*watcher, error) {
	pace := []string{"500us", "50ms", "1m"}
	if o.guest {
		pace = []string{"20ms", "1s", o.limit.String()} // or nobody else had the processor
	}
	cmd := w.client.Command(ctx, w.self, append([]string{"pod-watch"}, pace...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	return &watcher{in, bufio.NewScanner(out)}, cmd.Start()
}

func (w *watcher) begin(addr netip.AddrPort) error {
	_, err := fmt.Fprintln(w.in, addr)
	return err
}

func (w *watcher) end() (time.Time, error) {
	if !w.out.Scan() {
		return time.Time{}, errors.Join(errors.New("the pod that connects has ended"), w.out.Err())
	}
	ns, err := strconv.ParseInt(w.out.Text(), 10, 64)
	return time.Unix(0, ns), err
}

func (w *watcher) first(addr netip.AddrPort) (time.Time, error) {
	if err := w.begin(addr); err != nil {
		return time.Time{}, err
	}
	return w.end()
}

// resident returns the resident memory of a process, in MiB.
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if kib, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			n, err := strconv.ParseFloat(strings.Fields(string(kib))[0], 64)
			return n / 1024, err
		}
	}
	return 0, errors.New("no VmRSS in its status")
}

// run runs a helper in the client's pod and reads its JSON.
func (w *world) run(ctx context.Context, into any, name string, args ...string) error {
	cmd := w.client.Command(ctx, name, args...)
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err)
	}
	return json.Unmarshal(b, into)
}
