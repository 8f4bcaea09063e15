package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	security "istio.io/api/security/v1alpha1"

	"github.com/sluicenet/sluice/mesh/spiffe"
)

// Signed is the answer to a certificate request, in PEM.
type Signed struct {
	Chain []byte // the leaf first, without roots
	Roots []byte
}

// Signer has certificate requests in PEM signed. current is the certificate to
// renew, nil for the first one.
type Signer interface {
	Sign(ctx context.Context, request []byte, current *tls.Certificate) (Signed, error)
}

// Client is a [Signer] that asks a [Server].
type Client struct {
	// Address of the server, host:port.
	Address string
	// ServerName that the server's certificate must have; empty:
	// [ServerName].
	ServerName string
	// Roots returns the roots in PEM that the server is verified with. It is
	// asked each time, for they may change.
	Roots func() ([]byte, error)
	// Token returns the bearer token; nil: none, only renewals are possible.
	// It is asked each time, for a projected token is renewed.
	Token func() (string, error)
	// Life asks for certificates of that life; 0: as the server likes.
	Life time.Duration
	// Dialer opens the connection; nil: gRPC's own.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
}

// Sign implements [Signer]. It shows the token where there is one and the
// current certificate: the first proves that the service account still stands.
func (c *Client) Sign(ctx context.Context, request []byte, current *tls.Certificate) (Signed, error) {
	roots, err := c.Roots()
	if err != nil {
		return Signed{}, fmt.Errorf("certificate authority's roots: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, RootCAs: x509.NewCertPool()}
	if conf.ServerName == "" {
		conf.ServerName = ServerName
	}
	if !conf.RootCAs.AppendCertsFromPEM(roots) {
		return Signed{}, errors.New("certificate authority's roots: no certificate in PEM")
	}
	if current != nil {
		conf.Certificates = []tls.Certificate{*current}
	}
	if c.Token != nil {
		token, err := c.Token()
		if err != nil {
			return Signed{}, fmt.Errorf("service account's token: %w", err)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(token))
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(conf))}
	if c.Dialer != nil {
		opts = append(opts, grpc.WithContextDialer(c.Dialer))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.Address, opts...)
	if err != nil {
		return Signed{}, fmt.Errorf("certificate authority %s: %w", c.Address, err)
	}
	defer func() { _ = conn.Close() }()
	res, err := security.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &security.IstioCertificateRequest{
		Csr: string(request), ValidityDuration: int64(c.Life / time.Second),
	})
	if err != nil {
		return Signed{}, fmt.Errorf("certificate authority %s: %w", c.Address, err)
	}
	n := len(res.GetCertChain())
	if n < 2 {
		return Signed{}, fmt.Errorf("certificate authority %s: expected a certificate and a root, found %d certificates", c.Address, n)
	}
	return Signed{Chain: []byte(strings.Join(res.CertChain[:n-1], "")), Roots: []byte(res.CertChain[n-1])}, nil
}

// Local is a [Signer] in the authority's own process, for proxies that run
// beside it.
type Local struct {
	CA *CA
	ID spiffe.ID
}

// Sign implements [Signer].
func (l Local) Sign(_ context.Context, request []byte, _ *tls.Certificate) (Signed, error) {
	leaf, err := l.CA.Sign(l.ID, request, 0)
	return Signed{Chain: leaf, Roots: l.CA.Roots()}, err
}
