package ca

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/sluicenet/sluice/mesh/spiffe"
)

// Options say how certificates are made.
type Options struct {
	// TrustDomain of all identities; empty: cluster.local.
	TrustDomain string
	// Life of a workload's certificate; 0: 24 h.
	Life time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// backdate makes a certificate valid on machines whose clocks are late.
	backdate = time.Minute
)

// CA signs certificates. It is safe for concurrent use.
type CA struct {
	opt   Options
	cert  *x509.Certificate
	key   crypto.Signer
	roots []byte
	pool  *x509.CertPool
}

// Open returns the authority that the storage keeps, and makes one if it keeps
// none.
func Open(ctx context.Context, st Storage, o Options) (*CA, error) {
	o.TrustDomain = cmp.Or(o.TrustDomain, spiffe.DefaultTrustDomain)
	o.Life = cmp.Or(o.Life, 24*time.Hour)
	if o.Now == nil {
		o.Now = time.Now
	}
	m, err := st.Load(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		if m, err = newRoot(o); err != nil {
			return nil, err
		}
		if err = st.Create(ctx, m); errors.Is(err, fs.ErrExist) {
			m, err = st.Load(ctx) // another replica was first
		}
	}
	if err != nil {
		return nil, err
	}
	return parse(m, o)
}

func parse(m Material, o Options) (*CA, error) {
	block, _ := pem.Decode(m.Cert)
	if block == nil || block.Type != pemCertificate {
		return nil, errors.New("certificate authority: no certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	block, _ = pem.Decode(m.Key)
	if block == nil {
		return nil, errors.New("certificate authority: no key in PEM")
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, errors.New("certificate authority: the key is not the certificate's")
	}
	if !cert.IsCA {
		return nil, errors.New("certificate authority: the certificate is not an authority's")
	}
	c := &CA{opt: o, cert: cert, key: key, roots: m.Roots, pool: x509.NewCertPool()}
	c.pool.AddCert(cert)
	if len(c.roots) == 0 {
		c.roots = m.Cert
	}
	if !c.pool.AppendCertsFromPEM(c.roots) {
		return nil, errors.New("certificate authority: no certificate among the roots")
	}
	return c, nil
}

// parseKey reads PKCS #8, and SEC 1 as openssl writes it.
func parseKey(der []byte) (crypto.Signer, error) {
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	if s, ok := k.(crypto.Signer); ok {
		return s, nil
	}
	return nil, fmt.Errorf("a key of type %T cannot sign", k)
}

func newRoot(o Options) (Material, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Material{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Material{}, err
	}
	now := o.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{o.TrustDomain}, CommonName: "sluice mesh root"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: o.TrustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Material{}, fmt.Errorf("certificate authority: %w", err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Material{}, fmt.Errorf("certificate authority: %w", err)
	}
	return Material{Cert: cert, Key: pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: secret}), Roots: cert}, nil
}

// newSerial returns a positive number of 127 random bits (RFC 5280 §4.1.2.2).
func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// Roots returns all roots of the mesh in PEM.
func (c *CA) Roots() []byte { return c.roots }

// Pool returns the roots, to verify peers with.
func (c *CA) Pool() *x509.CertPool { return c.pool }

// TrustDomain returns the trust domain of the identities that c signs.
func (c *CA) TrustDomain() string { return c.opt.TrustDomain }

// RequestError says that a certificate request cannot be signed.
type RequestError struct{ Err error }

// Error implements error.
func (e *RequestError) Error() string { return "certificate request: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *RequestError) Unwrap() error { return e.Err }

// Sign returns a certificate in PEM, for the key of a certificate request in
// PEM, that says id and nothing else: names that the request asks for are not
// looked at. It lives for life, or as long as usual if that is 0 or longer. An
// error of type [RequestError] is the caller's fault.
func (c *CA) Sign(id spiffe.ID, request []byte, life time.Duration) ([]byte, error) {
	key, err := requestKey(request)
	if err != nil {
		return nil, &RequestError{err}
	}
	if id.TrustDomain != c.opt.TrustDomain {
		return nil, fmt.Errorf("certificate authority: %v is not of the trust domain %s", id, c.opt.TrustDomain)
	}
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if life <= 0 || life > c.opt.Life {
		life = c.opt.Life
	}
	return c.issue(&x509.Certificate{
		URIs:        []*url.URL{id.URL()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key, life)
}

func (c *CA) issue(template *x509.Certificate, key crypto.PublicKey, life time.Duration) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := c.opt.Now()
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(life)
	if template.NotAfter.After(c.cert.NotAfter) {
		template.NotAfter = c.cert.NotAfter
	}
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	if _, is := key.(*rsa.PublicKey); is {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key, c.key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}), nil
}

// maxRequest bounds what is parsed of a caller's bytes.
const maxRequest = 16 << 10

// requestKey reads the key of a certificate request whose signature proves
// that the caller has the private half.
func requestKey(request []byte) (crypto.PublicKey, error) {
	if len(request) > maxRequest {
		return nil, fmt.Errorf("%d bytes, at most %d are taken", len(request), maxRequest)
	}
	block, _ := pem.Decode(request)
	if block == nil || block.Type != pemRequest {
		return nil, fmt.Errorf("expected PEM of type %q", pemRequest)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, errors.New("expected an elliptic curve P-256 or P-384")
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 8192 {
			return nil, fmt.Errorf("expected an RSA key of 2048 to 8192 bits, found %d", bits)
		}
	case ed25519.PublicKey:
		// Envoy's BoringSSL has it switched off.
		return nil, errors.New("expected a key of ECDSA or RSA, found Ed25519")
	default:
		return nil, fmt.Errorf("expected a key of ECDSA or RSA, found %T", key)
	}
	return csr.PublicKey, nil
}

// names splits host names and addresses for a server's certificate.
func names(hosts []string) (dns []string, ips []net.IP) {
	for _, h := range hosts {
		if addr, err := netip.ParseAddr(h); err == nil {
			ips = append(ips, addr.AsSlice())
		} else {
			dns = append(dns, h)
		}
	}
	return dns, ips
}
