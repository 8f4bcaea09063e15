package dns

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"

	"github.com/sluicenet/sluice/dns/forward"
)

// TLS is how clients are answered over TLS (RFC 7858).
type TLS struct {
	Listen            []netip.AddrPort // empty: not at all
	CertFile, KeyFile string           // PEM; they are read again when they change
}

// Check tells whether the certificate can be used. The error begins with certFile or
// keyFile.
func (o TLS) Check() error {
	_, err := o.load()
	return err
}

func (o TLS) load() (tls.Certificate, error) {
	cert, err := os.ReadFile(o.CertFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certFile: %w", err)
	}
	key, err := os.ReadFile(o.KeyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("keyFile: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certFile %s with keyFile %s: %w", o.CertFile, o.KeyFile, err)
	}
	return pair, nil
}

// certificate is the one that clients see. It is nil where none is needed.
type certificate struct {
	TLS
	current atomic.Pointer[tls.Certificate]
}

func newCertificate(o TLS) (*certificate, error) {
	if len(o.Listen) == 0 {
		return nil, nil
	}
	c := &certificate{TLS: o}
	return c, c.read()
}

func (c *certificate) read() error {
	pair, err := c.load()
	if err != nil {
		return fmt.Errorf("dns: certificate: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12, // RFC 9325 §3.1.1
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// followCertificate keeps the certificate at what its files say. One that cannot be
// read leaves the last.
func (s *Server) followCertificate(ctx context.Context) error {
	if s.certificate == nil {
		return nil
	}
	failed := ""
	changed := func() {
		old := s.certificate.current.Load()
		switch err := s.certificate.read(); {
		case err == nil:
			if failed = ""; string(old.Certificate[0]) != string(s.certificate.current.Load().Certificate[0]) {
				s.Log.Info("dns: certificate read", "file", s.TLS.CertFile)
			}
		case err.Error() != failed:
			failed = err.Error()
			s.Log.Warn("dns: certificate not changed", "err", err)
		}
	}
	if err := forward.WatchFile(ctx, changed, s.TLS.CertFile, s.TLS.KeyFile); err != nil {
		s.Log.Warn("dns: changes of the certificate are seen late", "err", err)
	}
	return nil
}
