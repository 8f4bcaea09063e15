package forward

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tlsServer serves DNS over TLS on loopback with a certificate for the name, and
// 127.0.0.1. It counts handshakes, and those that resumed a session.
type tlsServer struct {
	addr  netip.AddrPort
	roots *x509.CertPool

	mu                sync.Mutex // guards all below
	handshakes, again int
	conns             []net.Conn
}

func newTLSServer(t *testing.T, name string) *tlsServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := &tlsServer{roots: x509.NewCertPool()}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.roots.AddCert(cert)
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"dot"},
		VerifyConnection: func(state tls.ConnectionState) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.handshakes++
			if state.DidResume {
				s.again++
			}
			return nil
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().(*net.TCPAddr).AddrPort()
	mem := &server{answer: named}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			serving.Go(func() { mem.serve(tls.Server(conn, config), true) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.disconnect()
		serving.Wait()
	})
	return s
}

func (s *tlsServer) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

// TestTLS asks servers whose certificates are for a name, for their address, for
// another name, and of nobody that is trusted. Only the first two are believed, and
// none is asked without TLS.
func TestTLS(t *testing.T) {
	s := newTLSServer(t, "dns.example")
	for _, c := range []struct {
		name  string
		roots *x509.CertPool
		fails string
	}{
		{"dns.example", s.roots, ""},
		{"", s.roots, ""},
		{"other.example", s.roots, "other.example"},
		{"dns.example", x509.NewCertPool(), "unknown authority"},
	} {
		f := newForwarder(t, Options{Zones: Root(Server{s.addr, TLS, c.name}), RootCAs: c.roots, Total: 20 * time.Second, Timeout: 10 * time.Second, Hedge: 15 * time.Second})
		r, _, err := f.Ask(t.Context(), text(t, "www.example.com"))
		switch {
		case c.fails == "" && (err != nil || r.Answers != 1):
			t.Errorf("name %q: %+v, %v", c.name, r, err)
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
			t.Errorf("name %q: %v, want %q", c.name, err, c.fails)
		}
	}
}

// TestTLSSession proves that questions share a connection, and that a new one takes
// up the session of the old.
func TestTLSSession(t *testing.T) {
	s := newTLSServer(t, "dns.example")
	f := newForwarder(t, Options{Zones: Root(Server{s.addr, TLS, "dns.example"}), RootCAs: s.roots, Total: 20 * time.Second, Timeout: 10 * time.Second, Hedge: 15 * time.Second})
	for range 2 {
		for range 5 {
			askAll(t, f, 1)
		}
		s.disconnect()
		for f.Stats()[0].Connections > 0 { // until the end is seen
			time.Sleep(time.Millisecond)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handshakes != 2 || s.again != 1 {
		t.Errorf("%d handshakes, %d of them resumed a session, want 2 and 1", s.handshakes, s.again)
	}
}

// TestWatchFile changes a resolv.conf in the ways that programs do.
func TestWatchFile(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(path, "nameserver 192.0.2.1\n")
	changed := make(chan struct{}, 100)
	done := make(chan error, 1)
	watching := make(chan struct{})
	go func() {
		close(watching)
		done <- WatchFile(t.Context(), func() { changed <- struct{}{} }, path)
	}()
	<-watching
	target := filepath.Join(other, "behind")
	for what, change := range map[string]func(){
		"written":  func() { write(path, "nameserver 192.0.2.2\n") },
		"replaced": func() { write(path+".new", ""); must(os.Rename(path+".new", path)) },
		"a link": func() {
			write(target, "")
			must(os.Symlink(target, path+".link"))
			must(os.Rename(path+".link", path))
		},
	} {
		// Again until it is seen: the watch may begin later than the change.
		seen := false
		for end := time.Now().Add(20 * time.Second); !seen && time.Now().Before(end); {
			change()
			select {
			case <-changed:
				seen = true
			case <-time.After(time.Second):
			}
		}
		if !seen {
			t.Errorf("%s: not seen", what)
		}
	}
	must(os.Remove(path))
	must(os.Symlink(target, path))
	for end := time.Now().Add(20 * time.Second); ; {
		write(target, "nameserver 192.0.2.3\n")
		select {
		case <-changed:
			return
		case <-time.After(time.Second):
		}
		if time.Now().After(end) {
			t.Fatal("a change behind a link is not seen")
		}
	}
}
