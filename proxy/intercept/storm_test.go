package intercept

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// rates are how many queries a second dnsperf asks: what is promised holds for the
// second, which takes a machine of its own.
var rates = map[bool]int{false: 500, true: 20_000}

// threads are those of dnsperf, each of which can wait for 65,536 answers.
const threads = 2

// storm is dnsperf asking an address from the pod, by a few sockets that it keeps,
// whether it gets answers or not.
type storm struct {
	*lab.Cmd
	t    testing.TB
	read chan struct{} // closed when all that it said is read

	mu      sync.Mutex // guards the rest
	last    time.Time  // of the answers
	gap     time.Duration
	answers int
	summary strings.Builder
}

// storm starts it. A query without an answer is lost after patience.
func (w *world) storm(to netip.Addr, patience time.Duration) *storm {
	w.t.Helper()
	if _, err := exec.LookPath("dnsperf"); err != nil {
		if os.Getenv("CI") != "" {
			w.t.Fatalf("needs dnsperf: %v", err)
		}
		w.t.Skipf("needs dnsperf: %v", err)
	}
	file := filepath.Join(w.t.TempDir(), "queries")
	if err := os.WriteFile(file, []byte(askedName+" A\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	rate := rates[*repeat > 0]
	// What is under way must never be so much that dnsperf waits with the next, also
	// where it makes up for what it could not send on a busy machine.
	outstanding := min(threads*65_536, 10*rate*int(patience/time.Second))
	s := &storm{t: w.t, last: time.Now(), read: make(chan struct{})}
	s.Cmd = w.pod.Command(context.Background(), "dnsperf", "-s", to.String(), "-d", file, "-c", "8", "-T", strconv.Itoa(threads), "-l", "100000", "-v",
		"-Q", strconv.Itoa(rate), "-q", strconv.Itoa(outstanding), "-t", strconv.Itoa(int(patience/time.Second)), "-b", "4096")
	out, err := s.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		w.t.Fatal(err)
	}
	go s.follow(out)
	w.t.Cleanup(func() { _ = s.Process.Kill(); <-s.read; _ = s.Wait() })
	return s
}

// follow reads what dnsperf says: a line for each answer, such as
// "> NOERROR web.default.svc.cluster.local A 0.000087", and its account at the end.
func (s *storm) follow(out io.Reader) {
	defer close(s.read)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		s.mu.Lock()
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "> NOERROR"):
			now := time.Now()
			s.gap = max(s.gap, now.Sub(s.last))
			s.last = now
			s.answers++
		case !strings.HasPrefix(line, ">"):
			s.summary.WriteString(line + "\n")
		}
		s.mu.Unlock()
	}
}

func (s *storm) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answers
}

// more waits for as many answers as come in half a second at the full rate.
func (s *storm) more() {
	s.t.Helper()
	before := s.count()
	eventually(s.t, "answers to dnsperf", func() bool { return s.count() >= before+rates[*repeat > 0]/2 })
}

// longest returns the longest time without an answer since it was last asked for.
func (s *storm) longest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	gap := max(s.gap, time.Since(s.last))
	s.gap, s.last = 0, time.Now()
	return gap
}

// end stops dnsperf and returns what it counted.
func (s *storm) end() (sent, completed, lost int, perSecond float64) {
	s.t.Helper()
	if err := s.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	<-s.read
	found := 0
	for line := range strings.Lines(s.summary.String()) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		var err error
		first, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		switch key {
		case "Queries sent":
			sent, err = strconv.Atoi(first)
		case "Queries completed":
			completed, err = strconv.Atoi(first)
		case "Queries lost":
			lost, err = strconv.Atoi(first)
		case "Queries per second":
			perSecond, err = strconv.ParseFloat(first, 64)
		default:
			continue
		}
		if found++; err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
	}
	if found != 4 {
		s.t.Fatalf("dnsperf gave no account:\n%s", s.summary.String())
	}
	return sent, completed, lost, perSecond
}

// worst notes the longest gap of each kind of event.
type worst map[string]time.Duration

func (m worst) note(t *testing.T, how string, gap time.Duration) {
	t.Helper()
	t.Logf("%s: no answer for %v", how, gap.Round(time.Millisecond))
	m[how] = max(m[how], gap)
	if gap > maxGap && *repeat > 0 {
		t.Errorf("%s: no answer for %v", how, gap)
	}
}

// TestStormDeaths proves that a load is answered on, after the longest gap that is
// allowed, when the server is stopped, is killed, and runs out of memory, and that
// there is no longer one when it comes back.
func TestStormDeaths(t *testing.T) {
	w := newWorld(t)
	w.kubeProxy("nftables")
	p := w.start(w.config())
	load := w.storm(cluster4, time.Second)
	// A client that tells who answers.
	witness := w.begin(false, 50*time.Millisecond, target{w.pod.Namespace, "udp", cluster4})
	defer end(witness)
	gaps := worst{}
	settle := func(who, how string) {
		t.Helper()
		more(t, who, witness)
		load.more()
		gaps.note(t, how, load.longest())
	}
	more(t, byNode, witness)
	load.more()
	load.longest()
	die := map[string]func(){
		"killed":        func() { p.signal(syscall.SIGKILL) },
		"out of memory": func() { p.exhaust() },
	}
	for range max(*repeat, 1) {
		p.signal(syscall.SIGSTOP)
		settle(byRemote, "stopped")
		p.signal(syscall.SIGCONT)
		settle(byNode, "continued")
		for _, how := range []string{"killed", "out of memory"} {
			die[how]()
			_ = p.Wait()
			if status := p.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
				t.Fatalf("%s: %v\n%s", how, p.ProcessState, p.log)
			}
			settle(byRemote, how)
			p = w.start(w.config())
			settle(byNode, "started")
		}
	}
	sent, completed, lost, rate := load.end()
	t.Logf("%d queries, %d answers, %d lost, %.0f answers a second; longest gaps: %v", sent, completed, lost, rate, gaps)
}

// TestStormUpgrade proves that a load sees nothing of a successor that takes over.
func TestStormUpgrade(t *testing.T) {
	w := newWorld(t)
	p := w.start(w.config())
	load := w.storm(cluster4, 5*time.Second)
	load.more()
	load.longest()
	gaps := worst{}
	for range max(*repeat, 1) {
		next := w.start(w.config())
		load.more()
		p.signal(syscall.SIGTERM)
		if err := p.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, p.log)
		}
		load.more()
		gaps.note(t, "replaced", load.longest())
		p = next
	}
	sent, completed, lost, rate := load.end()
	t.Logf("%d queries, %d answers, %d lost, %.0f answers a second; longest gap: %v", sent, completed, lost, rate, gaps)
	if lost > 0 {
		t.Errorf("%d of %d queries lost", lost, sent)
		for _, ns := range []*lab.Namespace{w.pod.Namespace, w.node.Namespace} {
			out, err := ns.Command(context.Background(), "grep", "Udp:", "/proc/net/snmp").CombinedOutput()
			t.Logf("%s: %v\n%s", ns.Name(), err, out)
		}
	}
}

// exhaust has the kernel kill the process for want of memory: in a control group
// of its own with a limit it takes more and more.
func (p *process) exhaust() {
	p.t.Helper()
	const limit = 64 << 20 // of what it takes from now on
	dir, file := "", ""
	for root, name := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		d := filepath.Join(root, fmt.Sprintf("sluice-test-%d", p.Process.Pid))
		if os.Mkdir(d, 0o755) != nil {
			continue
		}
		p.t.Cleanup(func() { _ = os.Remove(d) })
		if _, err := os.Stat(filepath.Join(d, name)); err == nil {
			dir, file = d, name
		}
	}
	if dir == "" {
		if os.Getenv("CI") != "" {
			p.t.Fatal("no control group with a limit of memory can be made here")
		}
		p.t.Log("killed from here, since no control group with a limit of memory can be made")
		p.signal(syscall.SIGKILL)
		return
	}
	for _, set := range [][2]string{{file, strconv.Itoa(limit)}, {"cgroup.procs", strconv.Itoa(p.Process.Pid)}} {
		if err := os.WriteFile(filepath.Join(dir, set[0]), []byte(set[1]), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	p.signal(syscall.SIGUSR1)
}
