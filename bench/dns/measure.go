package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/lab"
)

// result is what was measured of a server with one kind of queries.
type result struct {
	Server  string  `json:"server"`
	Queries string  `json:"queries"`
	Rate    float64 `json:"qps"`
	CPU     float64 `json:"cpu_us_per_answer"`
	Lost    int     `json:"lost"`
	// Coalesced is how many queries reached the upstream of 100 equal ones.
	Coalesced int `json:"upstream_queries_of_100_equal,omitempty"`
}

// mix is a kind of queries: n names of a pattern with a number.
type mix struct {
	name    string
	n       int
	pattern func(i int) string
	warm    bool // ask for each once before
	latency bool // measure the time that answers take, too
}

func (m mix) names() []string {
	out := make([]string, m.n)
	for i := range out {
		out[i] = m.pattern(i)
	}
	return out
}

// mixes: names that miss have numbers of their own in every run.
func mixes() []mix {
	run := rand.Uint32()
	return []mix{
		{"cluster", services, serviceName, true, true},
		{"cached", services, func(i int) string { return fmt.Sprintf("host-%d.example", i) }, true, true},
		{"nxdomain", services, func(i int) string { return fmt.Sprintf("nx-%d.default.svc.cluster.local", i) }, true, false},
		{"miss", 2_000_000, func(i int) string { return fmt.Sprintf("miss-%x-%d.example", run, i) }, false, false},
	}
}

// world is a namespace with an upstream, and a server in it.
type world struct {
	name     string // of the server
	lab      *lab.Lab
	node     *lab.Node
	upstream *upstream
	dir      string
	log      *os.File
	cmd      *lab.Cmd
}

// The cores of the server, and of everything else.
const serverCore, otherCore = 0, 1

func newWorld(ctx context.Context, o options, s subject) (w *world, err error) {
	w = &world{name: s.name, log: os.Stderr}
	if w.lab, err = lab.New(lab.Options{}); err != nil {
		return nil, err
	}
	made := w
	defer func() {
		if err != nil {
			made.close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "sluice-bench-"); err != nil {
		return nil, err
	}
	if !o.verbose {
		if w.log, err = os.Create(filepath.Join(w.dir, "log")); err != nil {
			return nil, err
		}
	}
	if w.node, err = w.lab.Node("node1"); err != nil {
		return nil, err
	}
	if w.upstream, err = newUpstream(w.node.Listen, w.node.ListenPacket); err != nil {
		return nil, err
	}
	if s.before != nil {
		if err := s.before(w); err != nil {
			return nil, err
		}
	}
	args, err := s.command(w.dir)
	if err != nil {
		return nil, err
	}
	w.cmd = w.node.Command(ctx, "taskset", append([]string{"-c", strconv.Itoa(serverCore)}, args...)...)
	w.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	w.cmd.Stdout, w.cmd.Stderr = w.log, w.log
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- w.cmd.Wait() }()
	for deadline := time.After(time.Minute); ; {
		if m, err := w.ask(s.last, time.Second); err == nil && m.Rcode == dns.RcodeSuccess {
			return w, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("it ended: %w\n%s", err, w.logTail())
		case <-deadline:
			return nil, fmt.Errorf("it does not answer after a minute\n%s", w.logTail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (w *world) close() {
	if w.upstream != nil {
		w.upstream.close()
	}
	w.lab.Close()
	_ = os.RemoveAll(w.dir)
}

func (w *world) logTail() string {
	b, err := os.ReadFile(filepath.Join(w.dir, "log"))
	if err != nil {
		return ""
	}
	return string(b[max(0, len(b)-1<<12):])
}

// ask makes one query from a socket of its own.
func (w *world) ask(name string, limit time.Duration) (*dns.Msg, error) {
	conn, err := w.node.DialContext(context.Background(), "udp", serverAddress)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	c := &dns.Conn{Conn: conn}
	_ = conn.SetDeadline(time.Now().Add(limit))
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	return c.ReadMsg()
}

// measure measures all servers by turns, with each kind of queries, several times.
func measure(ctx context.Context, o options, worlds []*world) ([]result, error) {
	var out []result
	fmt.Printf("%-9s %-9s %10s %10s %8s\n", "queries", "server", "qps", "CPU µs", "lost")
	for range o.repeat {
		for _, m := range mixes() {
			for _, w := range worlds {
				r, err := w.measure(ctx, o, m)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", w.name, m.name, err)
				}
				fmt.Printf("%-9s %-9s %10.0f %10.1f %8d\n", r.Queries, r.Server, r.Rate, r.CPU, r.Lost)
				out = append(out, r)
			}
		}
	}
	for _, w := range worlds {
		n := w.coalesced()
		fmt.Printf("%-9s of 100 equal queries at once, %d reached the upstream\n", w.name, n)
		out = append(out, result{Server: w.name, Queries: "equal", Coalesced: n})
	}
	return out, nil
}

// measure measures the server with as many queries as it can answer.
func (w *world) measure(ctx context.Context, o options, m mix) (result, error) {
	file, err := w.prepare(ctx, m)
	if err != nil {
		return result{}, err
	}
	var p *perf
	took, err := w.spent(func() (err error) {
		p, err = w.perf(ctx, "-d", file, "-l", seconds(o.length), "-c", "8", "-q", "64")
		return err
	})
	if err != nil {
		return result{}, err
	}
	return result{Server: w.name, Queries: m.name, Rate: p.rate, Lost: p.lost, CPU: perAnswer(took, p.answered)}, nil
}

// spent returns the processor time that the server takes while something is done.
func (w *world) spent(during func() error) (time.Duration, error) {
	before, err := cpu(w.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	if err := during(); err != nil {
		return 0, err
	}
	after, err := cpu(w.cmd.Process.Pid)
	return after - before, err
}

// perAnswer returns µs.
func perAnswer(took time.Duration, answers int) float64 {
	return float64(took.Microseconds()) / float64(max(1, answers))
}

func seconds(d time.Duration) string { return strconv.Itoa(max(1, int(d.Seconds()))) }

// prepare writes a file of queries for dnsperf and has the server know the answers, if
// it is to.
func (w *world) prepare(ctx context.Context, m mix) (file string, err error) {
	file = filepath.Join(w.dir, m.name)
	var b bytes.Buffer
	for _, name := range m.names() {
		fmt.Fprintf(&b, "%s A\n", name)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return "", err
	}
	if m.warm {
		_, err = w.perf(ctx, "-d", file, "-n", "1", "-q", "20")
	}
	return file, err
}

// perf is what dnsperf says.
type perf struct {
	rate     float64
	answered int
	lost     int
}

// perf runs dnsperf. What it says goes to a file, since who reads it meanwhile would
// take its time.
func (w *world) perf(ctx context.Context, args ...string) (*perf, error) {
	out, err := os.Create(filepath.Join(w.dir, "dnsperf"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	cmd := w.node.Command(ctx, "taskset", append([]string{"-c", strconv.Itoa(otherCore), "dnsperf", "-s", "127.0.0.1", "-p", "5300", "-t", "2"}, args...)...)
	cmd.Stdout = out
	failed := cmd.Run()
	b, err := os.ReadFile(out.Name())
	if failed != nil || err != nil {
		return nil, fmt.Errorf("dnsperf: %w\n%s", errors.Join(failed, err), b)
	}
	return parsePerf(b)
}

// parsePerf reads dnsperf's output.
func parsePerf(b []byte) (*perf, error) {
	p := &perf{}
	in := bufio.NewScanner(bytes.NewReader(b))
	for in.Scan() {
		line := strings.TrimSpace(in.Text())
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Queries completed:"):
			p.answered, _ = strconv.Atoi(fields[2])
		case strings.HasPrefix(line, "Queries lost:"):
			p.lost, _ = strconv.Atoi(fields[2])
		case strings.HasPrefix(line, "Queries per second:"):
			p.rate, _ = strconv.ParseFloat(fields[3], 64)
		}
	}
	if p.rate == 0 {
		return nil, fmt.Errorf("dnsperf had no answers:\n%s", b)
	}
	return p, in.Err()
}

// coalesced asks for one name a hundred times at once, from as many sockets, and
// returns how many queries the upstream got.
func (w *world) coalesced() int {
	w.upstream.slow.Store(true)
	defer w.upstream.slow.Store(false)
	before := w.upstream.queries.Load()
	var asking sync.WaitGroup
	for range 100 {
		asking.Go(func() { _, _ = w.ask("equal.example", 5*time.Second) })
	}
	asking.Wait()
	return int(w.upstream.queries.Load() - before)
}

// cpu returns the processor time that a process has had.
func cpu(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, which may have spaces.
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat: too few fields")
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // USER_HZ is 100 on every platform that Go runs on
}
