package forward

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
)

// broken answers over UDP with what change makes of a right answer.
func broken(t *testing.T, change func([]byte) []byte) *Forwarder {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var q dns.Msg
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			if b, err := address(&q, false).Pack(); err == nil {
				_, _ = pc.WriteTo(change(b), from)
			}
		}
	}()
	return newForwarder(t, Options{Zones: Root(Plain(pc.LocalAddr().(*net.UDPAddr).AddrPort())...), Total: 20 * time.Second, Timeout: 10 * time.Second, Hedge: 15 * time.Second})
}

// TestMalformedAnswer proves that an answer that cannot be read is the server's
// failure to resolve the name, which is known at once, and no silence.
func TestMalformedAnswer(t *testing.T) {
	for what, change := range map[string]func([]byte) []byte{
		"cut":              func(b []byte) []byte { return b[:len(b)-2] },
		"too many records": func(b []byte) []byte { b[7] = 200; return b },
		"garbage":          func(b []byte) []byte { return append(b[:len(b)-16], 0xff, 0xff, 0xff) },
	} {
		t.Run(what, func(t *testing.T) {
			f := broken(t, change)
			r, _, err := f.Ask(t.Context(), question(t, "www.example.com"))
			if err != nil || r.Rcode != wire.RcodeServFail || r.Keep {
				t.Errorf("%+v, %v", r, err)
			}
			if s := f.Stats()[0]; s.Failures != 0 || !s.Healthy || s.Requests != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestCutAnswer proves that one that says that it is cut, in the middle of a record,
// is handed on as such where TCP does not work.
func TestCutAnswer(t *testing.T) {
	f := broken(t, func(b []byte) []byte {
		b[2] |= wire.FlagTC >> 8
		return b[:len(b)-2]
	})
	r, _, err := f.Ask(t.Context(), question(t, "www.example.com"))
	if err != nil || !r.Truncated || r.Answers != 0 || r.Rcode != wire.RcodeSuccess {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestLargeDatagram proves that an answer that is larger than what was asked for, and
// than there is room for, is asked for over TCP.
func TestLargeDatagram(t *testing.T) {
	u := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		var records []string
		for range 30 {
			records = append(records, q.Question[0].Name+" 60 IN TXT "+strings.Repeat("x", 200))
		}
		return dnstest.Reply(q, dns.RcodeSuccess, records...)
	})
	f := newForwarder(t, Options{Zones: Root(Plain(u.Addr)...)})
	r, _, err := f.Ask(t.Context(), text(t, "www.example.com"))
	if err != nil || r.Truncated || r.Answers != 30 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestExtendedErrors proves that what a server says about EDNS is not handed on: a
// client did not send it.
func TestExtendedErrors(t *testing.T) {
	for what, c := range map[string]struct {
		handler dnstest.Handler
		want    uint16
	}{
		"BADVERS for EDNS": {func(q *dns.Msg, tcp bool) *dns.Msg {
			if q.IsEdns0() == nil {
				return address(q, tcp)
			}
			return extended(q, dns.RcodeBadVers)
		}, wire.RcodeSuccess},
		"BADVERS always": {func(q *dns.Msg, _ bool) *dns.Msg { return extended(q, dns.RcodeBadVers) }, wire.RcodeServFail},
		"BADCOOKIE":      {func(q *dns.Msg, _ bool) *dns.Msg { return extended(q, dns.RcodeBadCookie) }, wire.RcodeServFail},
	} {
		t.Run(what, func(t *testing.T) {
			f := newForwarder(t, Options{Zones: Root(Plain(dnstest.NewUpstream(t, c.handler).Addr)...)})
			r, _, err := f.Ask(t.Context(), question(t, "www.example.com"))
			if err != nil || r.Rcode != c.want || (r.Answers == 1) != (c.want == wire.RcodeSuccess) {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

func extended(q *dns.Msg, rcode int) *dns.Msg {
	r := dnstest.Reply(q, rcode)
	if r.IsEdns0() == nil {
		r.SetEdns0(1232, false)
	}
	return r
}
