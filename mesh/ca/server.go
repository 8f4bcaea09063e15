package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"github.com/sluicenet/sluice/mesh/spiffe"
)

// ServerName is the name of the control plane in its certificate, whatever
// address it is reached at.
const ServerName = "sluice-controlplane.sluice-system.svc"

// ServerTLS returns the TLS configuration of the control plane's endpoint: a
// certificate of the authority itself for [ServerName] and the names and
// addresses in more, renewed at half of its life. Clients may show a
// certificate of the mesh, and must then have a good one; see [PeerID].
func (c *CA) ServerTLS(more ...string) *tls.Config {
	var (
		mu    sync.Mutex
		cert  *tls.Certificate
		renew time.Time
	)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  c.pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			if now := c.opt.Now(); cert == nil || now.After(renew) {
				next, err := c.serverCertificate(append([]string{ServerName}, more...))
				if err != nil {
					return nil, err
				}
				cert, renew = next, now.Add(c.opt.Life/2)
			}
			return cert, nil
		},
	}
}

func (c *CA) serverCertificate(hosts []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	dns, ips := names(hosts)
	text, err := c.issue(&x509.Certificate{
		DNSNames:    dns,
		IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public(), c.opt.Life)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	return &tls.Certificate{Certificate: [][]byte{block.Bytes, c.cert.Raw}, PrivateKey: key}, nil
}

// Authenticator tells whose token it is. An error means that it is nobody's.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (spiffe.ID, error)
}

// Server answers certificate requests over gRPC. A caller proves who it is by
// a bearer token, or by the certificate that it wants to renew.
type Server struct {
	security.UnimplementedIstioCertificateServiceServer
	ca   *CA
	auth Authenticator
	log  *slog.Logger
}

// NewServer returns a server; log may be nil for slog.Default().
func NewServer(c *CA, auth Authenticator, log *slog.Logger) *Server {
	if log == nil {
		log = slog.Default()
	}
	return &Server{ca: c, auth: auth, log: log}
}

// Register adds the service to a gRPC server, which must speak TLS with
// [CA.ServerTLS].
func (s *Server) Register(r grpc.ServiceRegistrar) {
	security.RegisterIstioCertificateServiceServer(r, s)
}

// CreateCertificate implements the service. The chain that it returns is the
// leaf, then the roots of the mesh.
func (s *Server) CreateCertificate(ctx context.Context, req *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	id, err := s.caller(ctx)
	if err != nil {
		s.log.Warn("certificate refused", "from", from(ctx), "error", err)
		return nil, status.Error(codes.Unauthenticated, "no valid token and no certificate of the mesh")
	}
	leaf, err := s.ca.Sign(id, []byte(req.GetCsr()), seconds(req.GetValidityDuration()))
	if bad := (*RequestError)(nil); errors.As(err, &bad) {
		s.log.Warn("certificate refused", "identity", id, "from", from(ctx), "error", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	} else if err != nil {
		s.log.Error("certificate not signed", "identity", id, "from", from(ctx), "error", err)
		return nil, status.Error(codes.Internal, "the certificate could not be signed")
	}
	s.log.Info("certificate signed", "identity", id, "from", from(ctx))
	return &security.IstioCertificateResponse{CertChain: []string{string(leaf), string(s.ca.Roots())}}, nil
}

// seconds guards against an overflow: nobody gets more than usual anyway.
func seconds(n int64) time.Duration {
	if n <= 0 || n > int64(rootLife/time.Second) {
		return 0
	}
	return time.Duration(n) * time.Second
}

// caller tells who asks. A token that is not valid is refused even beside a
// good certificate, for it was meant to say something else.
func (s *Server) caller(ctx context.Context) (spiffe.ID, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, v := range md.Get("authorization") {
		if token, ok := strings.CutPrefix(v, "Bearer "); ok {
			id, err := s.auth.Authenticate(ctx, token)
			if err != nil {
				return spiffe.ID{}, err
			}
			id.TrustDomain = s.ca.opt.TrustDomain
			return id, nil
		}
	}
	id, ok := PeerID(ctx)
	switch {
	case !ok:
		return spiffe.ID{}, errors.New("neither a token nor a certificate")
	case id.TrustDomain != s.ca.opt.TrustDomain:
		return spiffe.ID{}, fmt.Errorf("%v is of another trust domain", id)
	}
	return id, nil
}

// PeerID returns the identity that the client of a gRPC call has proved by its
// certificate, on a connection that [CA.ServerTLS] accepted.
func PeerID(ctx context.Context) (spiffe.ID, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return spiffe.ID{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return spiffe.ID{}, false
	}
	// An SVID has exactly one URI (X509-SVID §2).
	leaf := info.State.VerifiedChains[0][0]
	if len(leaf.URIs) != 1 {
		return spiffe.ID{}, false
	}
	id, err := spiffe.Parse(leaf.URIs[0].String())
	return id, err == nil
}

func from(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return "unknown"
}
