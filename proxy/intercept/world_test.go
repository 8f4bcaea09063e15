package intercept

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/lab"
)

// world is a node with a pod, and another node with the cluster's DNS server.
type world struct {
	t           testing.TB
	lab         *lab.Lab
	node, node2 *lab.Node
	pod, remote *lab.Pod
}

func newWorld(t testing.TB) *world {
	l := lab.ForTest(t, lab.Options{})
	w := &world{t: t, lab: l, node: l.MustNode("node1"), node2: l.MustNode("node2")}
	w.pod, w.remote = w.node.MustPod("client"), w.node2.MustPod("coredns")
	w.serveRemote(w.remote.Namespace, w.remote.Addrs()...)
	return w
}

// remoteAnswer is what the ordinary endpoint says to every question.
var remoteAnswer = map[bool]netip.Addr{false: netip.MustParseAddr("192.0.2.2"), true: netip.MustParseAddr("2001:db8::2")}

// serveRemote answers as an ordinary endpoint does.
func (w *world) serveRemote(ns *lab.Namespace, addrs ...netip.Addr) {
	w.t.Helper()
	handler := dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
		if h.Rrtype == dns.TypeAAAA {
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: remoteAnswer[true].AsSlice()})
		} else {
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: remoteAnswer[false].AsSlice()})
		}
		_ = rw.WriteMsg(m)
	})
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, 53).String()
		pc, err := ns.ListenPacket("udp", to)
		if err != nil {
			w.t.Fatal(err)
		}
		ln, err := ns.Listen("tcp", to)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: ln, Handler: handler}} {
			go func() { _ = s.ActivateAndServe() }()
			w.t.Cleanup(func() { _ = s.Shutdown() })
		}
	}
}

// process is a child.
type process struct {
	*lab.Cmd
	t   testing.TB
	log *log
}

type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (w *world) config() childConfig { return childConfig{Endpoints: w.remote.Addrs()} }

// start starts a child on the node and waits until it has taken over.
func (w *world) start(c childConfig) *process {
	w.t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{Cmd: w.node.Command(context.Background(), "/proc/self/exe"), t: w.t, log: &log{}}
	p.Env = append(os.Environ(), childVariable+"="+string(b))
	p.Stderr = p.log
	if err := p.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
		if w.t.Failed() {
			w.t.Logf("process %d:\n%s", p.Process.Pid, p.log)
		}
	})
	eventually(w.t, "the child intercepts", func() bool { return strings.Contains(p.log.String(), "queries are intercepted") })
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// Who answered.
const (
	byNode   = "node"
	byRemote = "remote"
)

// target is where and how a question is asked.
type target struct {
	from    *lab.Namespace
	network string // udp or tcp
	to      netip.Addr
}

func (x target) String() string { return fmt.Sprintf("%s %s %s", x.from.Name(), x.network, x.to) }

// targets are all ways to ask.
func (w *world) targets() []target {
	var out []target
	for _, from := range []*lab.Namespace{w.pod.Namespace, w.node.Namespace} {
		for _, network := range []string{"udp", "tcp"} {
			for _, to := range []netip.Addr{link4, link6, cluster4, cluster6} {
				out = append(out, target{from, network, to})
			}
		}
	}
	return out
}

// over returns the targets of a protocol.
func (w *world) over(network string) []target {
	return slices.DeleteFunc(w.targets(), func(x target) bool { return x.network != network })
}

// dialAll opens a connection to each target, for the test's time.
func (w *world) dialAll(targets []target) []*dns.Conn {
	w.t.Helper()
	var conns []*dns.Conn
	for _, x := range targets {
		c, err := x.dial()
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// dial opens a connection for questions.
func (x target) dial() (*dns.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := x.from.DialContext(ctx, x.network, netip.AddrPortFrom(x.to, 53).String())
	if err != nil {
		return nil, err
	}
	return &dns.Conn{Conn: c}, nil
}

// askOn asks on a connection who is there.
func askOn(c *dns.Conn, six bool, patience time.Duration) (string, error) {
	q := new(dns.Msg).SetQuestion(askedName+".", dns.TypeA)
	if six {
		q.Question[0].Qtype = dns.TypeAAAA
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if err := c.WriteMsg(q); err != nil {
		return "", err
	}
	for {
		m, err := c.ReadMsg()
		if err != nil {
			return "", err
		}
		if m.Id != q.Id {
			continue
		}
		if len(m.Answer) == 0 {
			return "", errors.New(dns.RcodeToString[m.Rcode])
		}
		var got net.IP
		switch rr := m.Answer[0].(type) {
		case *dns.A:
			got = rr.A
		case *dns.AAAA:
			got = rr.AAAA
		}
		switch a, _ := netip.AddrFromSlice(got); a.Unmap() {
		case localAnswer[six]:
			return byNode, nil
		case remoteAnswer[six]:
			return byRemote, nil
		}
		return "", fmt.Errorf("unknown answer %v", m.Answer)
	}
}

// ask asks once, on a connection of its own.
func (x target) ask(patience time.Duration) (string, error) {
	c, err := x.dial()
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	return askOn(c, x.to.Is6(), patience)
}

// check expects every way to lead to someone, as soon as it may.
func (w *world) check(want string, targets ...target) {
	w.t.Helper()
	for _, x := range targets {
		var got string
		var err error
		for end := time.Now().Add(30 * time.Second); got != want && time.Now().Before(end); {
			got, err = x.ask(time.Second)
		}
		if got != want {
			w.t.Errorf("%v: answered by %q (%v), want %q", x, got, err, want)
		}
	}
}

// checkFails expects SERVFAIL, as soon as the server's first heartbeat has led the
// queries to it: until then they are refused, and a client asks again.
func (w *world) checkFails(x target) {
	w.t.Helper()
	var got string
	err := errors.New("not asked")
	for end := time.Now().Add(30 * time.Second); err != nil && err.Error() != dns.RcodeToString[dns.RcodeServerFailure] && time.Now().Before(end); {
		got, err = x.ask(5 * time.Second)
	}
	if err == nil || err.Error() != dns.RcodeToString[dns.RcodeServerFailure] {
		w.t.Errorf("%v: answered by %q (%v), want SERVFAIL", x, got, err)
	}
}

// nft runs nft on the node.
func (w *world) nft(args ...string) string {
	w.t.Helper()
	out, err := w.node.Command(context.Background(), "nft", args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.node.Command(context.Background(), name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
