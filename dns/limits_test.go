package dns_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/ratelimit"
)

const svc1 = "svc1.testns.svc.cluster.local."

// certify writes a certificate of that serial number.
func certify(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "dns"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestTLS answers over TLS, with the certificate that the files have.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := certify(t, dir, 1)
	s := start(t, func(o *sluicedns.Options) {
		o.TLS = sluicedns.TLS{Listen: []netip.AddrPort{loopback}, CertFile: cert, KeyFile: key}
	})
	addr := s.Addrs()[len(s.Addrs())-1]
	serial := func() int64 {
		c := &dns.Client{Net: "tcp-tls", Timeout: 10 * time.Second, TLSConfig: &tls.Config{InsecureSkipVerify: true}}
		conn, err := c.Dial(addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 2 {
			r, _, err := c.ExchangeWithConn(new(dns.Msg).SetQuestion(svc1, dns.TypeA), conn)
			if err != nil || len(r.Answer) != 1 {
				t.Fatal(r, err)
			}
		}
		return conn.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if n := serial(); n != 1 {
		t.Errorf("certificate %d", n)
	}
	if err := os.WriteFile(key, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	certify(t, dir, 2)
	waitFor(t, "the new certificate", func() bool { return serial() == 2 })
	if _, err := sluicedns.New(sluicedns.Options{
		Store: s.Store, Listen: []netip.AddrPort{loopback}, TLS: sluicedns.TLS{Listen: []netip.AddrPort{loopback}, CertFile: "nowhere", KeyFile: key},
	}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("without certificate: %v", err)
	}
}

// TestRateLimit drops what is too much of one client, sends it to TCP now and then,
// and there has it wait.
func TestRateLimit(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) { o.RateLimit = ratelimit.Options{PerSecond: 20, Burst: 5, Slip: 2} })
	conn, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	q, err := new(dns.Msg).SetQuestion(svc1, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var answered, truncated int
	for sent := 0; truncated == 0 && sent < 10_000; sent++ {
		if _, err := conn.Write(q); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 512)
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			continue
		}
		var r dns.Msg
		if err := r.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		if r.Truncated && len(r.Answer) == 0 {
			truncated++
		} else if len(r.Answer) == 1 {
			answered++
		}
	}
	if answered == 0 || truncated == 0 {
		t.Errorf("%d answered, %d sent to TCP", answered, truncated)
	}
	if r := ask(t, s.Addrs()[0], "tcp", svc1, "A"); len(r.Answer) != 1 {
		t.Errorf("over TCP: %v", r)
	}
}

// lockedBuffer is written by the server and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestLogSample logs one of so many queries.
func TestLogSample(t *testing.T) {
	var log lockedBuffer
	s := start(t, func(o *sluicedns.Options) {
		o.LogEvery = 5
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 10 {
		ask(t, s.Addrs()[0], "tcp", svc1, "A")
	}
	waitFor(t, "two lines", func() bool { return strings.Count(log.String(), "dns: query") == 2 })
	if !strings.Contains(log.String(), "name="+svc1+" type=A client=127.0.0.1:") || !strings.Contains(log.String(), "protocol=tcp rcode=NOERROR source=zone") {
		t.Error(log.String())
	}
}

// background asks all the time from an address of its own, and returns what has
// the answers stop.
func background(t *testing.T, s *sluicedns.Server) (stop func() (answered int)) {
	t.Helper()
	done, counted := make(chan struct{}), make(chan int)
	addr := s.Addrs()[0].String()
	go func() {
		n := 0
		for {
			for _, network := range []string{"udp", "tcp"} {
				local := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}
				c := &dns.Client{Net: network, Timeout: 20 * time.Second, Dialer: &net.Dialer{Timeout: 20 * time.Second, LocalAddr: local}}
				tries := 1
				if network == "tcp" {
					c.Dialer.LocalAddr = &net.TCPAddr{IP: local.IP}
				} else { // the kernel drops what a full queue has no room for
					c.Timeout, tries = time.Second, 20
				}
				var r *dns.Msg
				var err error
				for range tries {
					if r, _, err = c.Exchange(new(dns.Msg).SetQuestion(svc1, dns.TypeA), addr); err == nil {
						break
					}
				}
				if err != nil || len(r.Answer) != 1 {
					t.Errorf("another client gets no answer over %s: %v", network, err)
					counted <- n
					return
				}
				n++
			}
			select {
			case <-done:
				counted <- n
				return
			default:
			}
		}
	}()
	return func() int {
		close(done)
		return <-counted
	}
}

// TestHostileClients sends all that a server must survive, and proves that another client does
// not notice.
func TestHostileClients(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// Both ends are here, and others of this process need some.
	connections := int(min(10_000, limit.Cur/3))
	s := start(t, func(o *sluicedns.Options) {
		o.MaxConnections, o.MaxPerClient, o.IdleTimeout = 200, 150, 5*time.Second
	})
	addr := s.Addrs()[0].String()
	for what, attack := range map[string]func() error{
		"connections of one client": func() error {
			return flood(addr, connections, func(c net.Conn) error { return nil })
		},
		"a drip on each connection": func() error {
			return flood(addr, 300, func(c net.Conn) error {
				_, err := c.Write([]byte{0, 100, 1})
				return err
			})
		},
		"names of 64 KiB": func() error {
			return flood(addr, 50, func(c net.Conn) error {
				msg := append([]byte{0xff, 0xff, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte("\x3f"+strings.Repeat("x", 63)), 1023)...)
				_, err := c.Write(msg)
				return err
			})
		},
		"compression loops": func() error {
			conn, err := net.Dial("udp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			head := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1}
			for i := range 3000 {
				loops := [][]byte{
					append(head[:12:12], 0xc0, 12, 0, 1, 0, 1),
					append(head[:12:12], 1, 'a', 0xc0, 12, 0, 1, 0, 1),
					append(head[:12:12], 0, 0, 1, 0, 1, 0xc0, 17, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0),
					bytes.Repeat([]byte{0xc0}, 4096), head[:i%12],
				}
				_, _ = conn.Write(loops[i%len(loops)]) // a full queue is no mistake
			}
			return nil
		},
		"a flood of names that do not exist": func() error {
			conn, err := net.Dial("udp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			for i := range 5000 {
				q, err := new(dns.Msg).SetQuestion(fmt.Sprintf("x%d.testns.svc.cluster.local.", i), dns.TypeA).Pack()
				if err != nil {
					return err
				}
				_, _ = conn.Write(q)
			}
			return nil
		},
		"queries without reading the answers": func() error {
			q, err := new(dns.Msg).SetQuestion("crowd.testns.svc.cluster.local.", dns.TypeA).Pack()
			if err != nil {
				return err
			}
			stream := bytes.Repeat(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...), 2000)
			return flood(addr, 5, func(c net.Conn) error {
				if err := c.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
					return err
				}
				_, _ = c.Write(stream) // as far as it goes
				return nil
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			stop := background(t, s)
			err := attack()
			if n := stop(); err != nil || n == 0 {
				t.Errorf("%d answers for others, %v", n, err)
			}
		})
	}
}

// flood opens connections, does something on each, and keeps all until the end. A
// server may close one at any time.
func flood(addr string, n int, each func(net.Conn) error) error {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range n {
		c, err := net.DialTimeout("tcp", addr, 20*time.Second)
		if err != nil {
			return err
		}
		open = append(open, c)
		_ = each(c)
	}
	return nil
}

// TestSlowDrip proves that a message has little time once it has begun, and that an
// idle connection has more.
func TestSlowDrip(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) { o.IdleTimeout = time.Hour })
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		for _, b := range bytes.Repeat([]byte{0, 100, 1}, 1000) {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	if err := conn.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("the connection is not closed: %d octets, %v", n, err)
	}
}

// TestIdleMakesRoom proves that a new client gets in where another one holds all
// connections.
func TestIdleMakesRoom(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) { o.MaxConnections, o.MaxPerClient, o.IdleTimeout = 4, 4, time.Hour })
	var open []net.Conn
	for range 6 { // the last two are one client's too many
		c, err := net.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	for _, c := range open[4:] {
		if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil && os.IsTimeout(err) {
			t.Error("a connection over the client's limit stays open")
		}
	}
	if n := background(t, s)(); n < 2 {
		t.Errorf("%d answers for another client", n)
	}
}
