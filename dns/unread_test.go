package dns_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
)

// TestUnreadAnswers has clients that ask for the largest answers and read none: what
// waits for them is bounded, and others are answered.
func TestUnreadAnswers(t *testing.T) {
	const connections, pipelined = 200, 64
	release := make(chan struct{})
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, tcp bool) *dns.Msg {
		if !tcp {
			r := dnstest.Reply(q, dns.RcodeSuccess)
			r.Truncated = true
			return r
		}
		<-release
		var records []string
		for range 240 {
			records = append(records, "big.example.com. 60 IN TXT "+strings.Repeat("x", 230))
		}
		return dnstest.Reply(q, dns.RcodeSuccess, records...)
	})
	s := start(t, func(o *sluicedns.Options) {
		askOnce(o, upstream)
		o.MaxConnections, o.MaxPerClient = 2*connections, 2*connections
	})
	q, err := new(dns.Msg).SetQuestion("big.example.com.", dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	stream := bytes.Repeat(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...), pipelined)
	small := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	for range connections {
		c, err := small.DialContext(t.Context(), "tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(stream); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "all to wait", func() bool {
		return metric(t, s, "sluice_dns_forward_coalesced_total") == connections*pipelined-1
	})
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	stop := background(t, s)
	close(release)
	most := uint64(0)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapInuse)
	}
	if n := stop(); n == 0 {
		t.Error("others get no answer")
	}
	more := (int64(most) - int64(before.HeapInuse)) >> 20
	t.Logf("%d MiB more, %v connections closed", more, metric(t, s, "sluice_dns_tcp_unread_total"))
	if all := connections * pipelined * 55 >> 10; more > int64(all)/3 || metric(t, s, "sluice_dns_tcp_unread_total") == 0 {
		t.Errorf("%d MiB more for answers of %d MiB that nobody reads", more, all)
	}
}
