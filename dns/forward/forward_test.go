package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
)

func question(t testing.TB, name string) Question {
	t.Helper()
	n, err := wire.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return Question{Name: n, Type: wire.TypeA}
}

func newForwarder(t testing.TB, o Options) *Forwarder {
	t.Helper()
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func address(q *dns.Msg, _ bool) *dns.Msg {
	return dnstest.Reply(q, dns.RcodeSuccess, q.Question[0].Name+" 60 IN A 192.0.2.1")
}

func rcode(code int) dnstest.Handler {
	return func(q *dns.Msg, _ bool) *dns.Msg { return dnstest.Reply(q, code) }
}

func silent(*dns.Msg, bool) *dns.Msg { return nil }

// TestFailover has servers that fail in every way before one that answers.
func TestFailover(t *testing.T) {
	good := dnstest.NewUpstream(t, address)
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	for what, first := range map[string]netip.AddrPort{
		"silent":   dnstest.NewUpstream(t, silent).Addr,
		"SERVFAIL": dnstest.NewUpstream(t, rcode(dns.RcodeServerFailure)).Addr,
		"REFUSED":  dnstest.NewUpstream(t, rcode(dns.RcodeRefused)).Addr,
		"closed":   closed,
	} {
		t.Run(what, func(t *testing.T) {
			f := newForwarder(t, Options{Zones: Root(Plain(first, good.Addr)...), Hedge: 20 * time.Millisecond, Total: 20 * time.Second})
			r, from, err := f.Ask(t.Context(), question(t, "www.example.com"))
			if err != nil || from != good.Addr || r.Answers != 1 {
				t.Errorf("%+v from %v, %v", r, from, err)
			}
		})
	}
}

// TestHealth proves that a server that does not answer is asked last afterwards,
// and one that fails for a name is not.
func TestHealth(t *testing.T) {
	good := dnstest.NewUpstream(t, address)
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	f := newForwarder(t, Options{Zones: Root(Plain(closed, good.Addr)...)})
	for range 5 {
		if _, _, err := f.Ask(t.Context(), question(t, "www.example.com")); err != nil {
			t.Fatal(err)
		}
	}
	s := f.Stats()
	if s[0].Server.Addr != closed || s[0].Requests != 1 || s[0].Failures != 1 || s[0].Healthy || s[1].Requests != 5 || !s[1].Healthy {
		t.Errorf("%+v", s)
	}
	failing := dnstest.NewUpstream(t, rcode(dns.RcodeServerFailure))
	f = newForwarder(t, Options{Zones: Root(Plain(failing.Addr)...)})
	r, _, err := f.Ask(t.Context(), question(t, "www.example.com"))
	if err != nil || r.Rcode != wire.RcodeServFail || !f.Stats()[0].Healthy {
		t.Errorf("%+v, %v, %+v", r, err, f.Stats())
	}
}

func TestNobodyAnswers(t *testing.T) {
	f := newForwarder(t, Options{Zones: Root(Plain(dnstest.NewUpstream(t, silent).Addr)...), Timeout: 30 * time.Millisecond})
	if _, _, err := f.Ask(t.Context(), question(t, "www.example.com")); !errors.Is(err, ErrUnanswered) {
		t.Errorf("%v", err)
	}
	f = newForwarder(t, Options{Zones: Root(Plain(dnstest.NewUpstream(t, silent).Addr)...), Total: 30 * time.Millisecond})
	if _, _, err := f.Ask(t.Context(), question(t, "www.example.com")); !errors.Is(err, ErrUnanswered) {
		t.Errorf("%v", err)
	}
	f = newForwarder(t, Options{})
	if _, _, err := f.Ask(t.Context(), question(t, "www.example.com")); !errors.Is(err, ErrNoUpstream) {
		t.Errorf("%v", err)
	}
}

// TestTruncatedIsAskedOverTCP, over one connection if the server keeps it.
func TestTruncatedIsAskedOverTCP(t *testing.T) {
	var overTCP atomic.Int32
	many := func(q *dns.Msg, tcp bool) *dns.Msg {
		var records []string
		for i := range 100 {
			records = append(records, fmt.Sprintf("%s 60 IN A 192.0.2.%d", q.Question[0].Name, i))
		}
		r := dnstest.Reply(q, dns.RcodeSuccess, records...)
		if tcp {
			overTCP.Add(1)
		} else {
			r.Truncate(512)
		}
		return r
	}
	u := dnstest.NewUpstream(t, many)
	f := newForwarder(t, Options{Zones: Root(Plain(u.Addr)...)})
	for i := range int32(3) {
		r, _, err := f.Ask(t.Context(), question(t, "www.example.com"))
		if err != nil || r.Truncated || r.Answers != 100 || overTCP.Load() != i+1 {
			t.Errorf("%+v, %v, %d over TCP", r, err, overTCP.Load())
		}
	}
	open := f.table.Load().upstreams[0].streams.open
	if len(open) != 1 {
		t.Fatalf("%d connections for three questions in a row", len(open))
	}
	// As if the server had closed it.
	if err := open[0].conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if r, _, err := f.Ask(t.Context(), question(t, "www.example.com")); err != nil || r.Truncated {
		t.Errorf("over a connection that was closed: %+v, %v", r, err)
	}
}

// TestTCPFails hands on what UDP had.
func TestTCPFails(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := address(q, false)
		r.Truncated = true
		if err := w.WriteMsg(r); err != nil {
			t.Error(err)
		}
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	defer func() {
		_ = pc.Close()
		<-done
	}()
	f := newForwarder(t, Options{Zones: Root(Plain(pc.LocalAddr().(*net.UDPAddr).AddrPort())...)})
	if r, _, err := f.Ask(t.Context(), question(t, "www.example.com")); err != nil || !r.Truncated || r.Answers != 1 || r.Keep {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestWithoutEDNS asks a server that does not know the OPT record.
func TestWithoutEDNS(t *testing.T) {
	u := dnstest.NewUpstream(t, func(q *dns.Msg, tcp bool) *dns.Msg {
		if q.IsEdns0() != nil {
			return &dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: dns.RcodeFormatError}}
		}
		return address(q, tcp)
	})
	f := newForwarder(t, Options{Zones: Root(Plain(u.Addr)...)})
	if r, _, err := f.Ask(t.Context(), question(t, "www.example.com")); err != nil || r.Answers != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestForgeries are passed over: another ID, another question, garbage.
func TestForgeries(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 512)
		n, from, err := pc.ReadFrom(buf)
		var q dns.Msg
		if err != nil || q.Unpack(buf[:n]) != nil {
			return
		}
		id, other := address(&q, false), address(&q, false)
		id.Id++
		other.Question = []dns.Question{{Name: "evil.example.com.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
		for _, m := range []*dns.Msg{id, other, address(&q, false)} {
			b, err := m.Pack()
			if err != nil {
				return
			}
			if m == other {
				b = append(b[:20], b[21:]...)
			}
			_, _ = pc.WriteTo(b, from)
		}
	}()
	f := newForwarder(t, Options{Zones: Root(Plain(pc.LocalAddr().(*net.UDPAddr).AddrPort())...)})
	r, _, err := f.Ask(t.Context(), question(t, "www.example.com"))
	if err != nil || r.Answers != 1 || f.Stats()[0].Failures != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestCancelled proves that a server is not to blame for a question given up.
func TestCancelled(t *testing.T) {
	f := newForwarder(t, Options{Zones: Root(Plain(dnstest.NewUpstream(t, silent).Addr)...)})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, _, err := f.Ask(ctx, question(t, "www.example.com")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if s := f.Stats()[0]; s.Failures != 0 || !s.Healthy {
		t.Errorf("%+v", s)
	}
}

func TestResolvConf(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	behind := write("behind", "nameserver 192.0.2.9\n")
	self := []netip.AddrPort{netip.MustParseAddrPort("169.254.20.10:53"), netip.MustParseAddrPort("0.0.0.0:5353")}
	for name, c := range map[string]struct {
		text, behind string
		want         []string
		loop         string
	}{
		"usual":           {"# c\nsearch x\nnameserver 192.0.2.1 # d\nnameserver\t2001:db8::1\nnameserver bad\nnameserver\noptions x\n", behind, []string{"192.0.2.1:53", "[2001:db8::1]:53"}, ""},
		"twice":           {"nameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver 0.0.0.0\n", behind, []string{"192.0.2.1:53"}, ""},
		"empty":           {"", behind, nil, ""},
		"resolved":        {"nameserver 127.0.0.53\noptions edns0\n", behind, []string{"192.0.2.9:53"}, ""},
		"resolved alone":  {"nameserver 127.0.0.53\n", filepath.Join(dir, "none"), nil, "127.0.0.53"},
		"resolved itself": {"nameserver 127.0.0.53\n", write("stub", "nameserver 127.0.0.53\n"), nil, "127.0.0.53"},
		"ourselves first": {"nameserver 169.254.20.10\nnameserver 192.0.2.1\n", behind, []string{"192.0.2.1:53"}, ""},
		"ourselves alone": {"nameserver 169.254.20.10\n", behind, nil, "169.254.20.10"},
		"loopback":        {"nameserver 127.0.0.1\n", behind, []string{"127.0.0.1:53"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := write("resolv.conf", c.text)
			got, err := readResolvConf(path, c.behind, self)
			if _, isLoop := errors.AsType[*LoopError](err); isLoop != (c.loop != "") || c.loop != "" && !strings.Contains(err.Error(), c.loop) || c.loop == "" && err != nil {
				t.Fatalf("error %v, want a loop of %q", err, c.loop)
			}
			var texts []string
			if got != nil {
				for _, a := range got.Servers {
					texts = append(texts, a.String())
				}
			}
			if !slices.Equal(texts, c.want) {
				t.Errorf("%q, want %q", texts, c.want)
			}
		})
	}
	if _, err := ReadResolvConf(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestParseZones(t *testing.T) {
	zones, err := ParseZones(
		[]string{"10.0.0.1", "[fd00::1]:5353", "corp.example=tcp://10.0.0.3:54", "fd00::2", "Corp.example.=tls://10.0.0.4#dns.corp.example", "tls://10.0.0.5", "10.0.0.1"},
		[]string{"random", "corp.example=round_robin"})
	want := []Zone{
		{Name: ".", Policy: Random, Servers: []Server{
			{Addr: netip.MustParseAddrPort("10.0.0.1:53")}, {Addr: netip.MustParseAddrPort("[fd00::1]:5353")},
			{Addr: netip.MustParseAddrPort("[fd00::2]:53")}, {Addr: netip.MustParseAddrPort("10.0.0.5:853"), Protocol: TLS},
		}},
		{Name: "corp.example", Policy: RoundRobin, Servers: []Server{
			{Addr: netip.MustParseAddrPort("10.0.0.3:54"), Protocol: TCP},
			{Addr: netip.MustParseAddrPort("10.0.0.4:853"), Protocol: TLS, Name: "dns.corp.example"},
		}},
	}
	if err != nil || !reflect.DeepEqual(zones, want) {
		t.Errorf("%+v, %v, want %+v", zones, err, want)
	}
	for _, bad := range []string{
		"", "dns.example", "10.0.0.1:x", "10.0.0.1:0", "=10.0.0.1", "a..b=10.0.0.1", "corp=", "https://10.0.0.1",
		"10.0.0.1#name", "tls://10.0.0.1#", "tls://10.0.0.1#a..b", "0.0.0.0", "224.0.0.1", "[10.0.0.1",
	} {
		if zones, err := ParseZones([]string{bad}, nil); err == nil {
			t.Errorf("%q is accepted: %+v", bad, zones)
		}
	}
	for _, bad := range []string{"", "fastest", "corp.example=random"} {
		if _, err := ParseZones(nil, []string{bad}); err == nil {
			t.Errorf("policy %q is accepted", bad)
		}
	}
}

func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "[fd00::1]:53", "tls://10.0.0.1#dns.example", "tcp://fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseServer(text)
		if err != nil {
			return
		}
		if again, err := ParseServer(s.String()); err != nil || again != s {
			t.Errorf("%q is %v, which is %v, %v", text, s, again, err)
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 127.0.0.53\nsearch a\noptions rotate timeout:3 attempts:9\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseResolvConf(text, "resolv.conf")
		for _, s := range c.Servers {
			if !s.Addr.IsValid() || s.Addr.Port() != defaultPort || s.Protocol != UDP {
				t.Errorf("%q: %v", text, s)
			}
		}
		if c.Attempts < 0 || c.Attempts > maxAttempts || c.Timeout < 0 || c.Timeout > maxTimeout*time.Second {
			t.Errorf("%q: %+v", text, c)
		}
	})
}
