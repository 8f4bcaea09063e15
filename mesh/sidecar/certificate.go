package sidecar

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/sluicenet/sluice/mesh/ca"
)

// identity is a certificate with its key, and what peers are verified with.
type identity struct {
	chain, key, roots []byte // PEM
	cert              tls.Certificate
	notBefore         time.Time
	notAfter          time.Time
}

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 30 * time.Second
	// signTimeout bounds one request to the authority.
	signTimeout = 10 * time.Second
)

// keeper keeps a valid certificate at hand.
type keeper struct {
	signer  ca.Signer
	log     *slog.Logger
	metrics *metrics
	set     func(*identity)
}

// run gets the first certificate as soon as the authority can be reached, and
// the next one each time half of the life of one is over. While the authority
// cannot be reached the last one stays in use.
func (k *keeper) run(ctx context.Context) error {
	var (
		current *identity
		backoff = minBackoff
	)
	for {
		next, err := k.request(ctx, current)
		var wait time.Duration
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			k.metrics.requests.WithLabelValues("failed").Inc()
			wait = jitter(backoff, 0.2)
			backoff = min(2*backoff, maxBackoff)
			k.log.Warn("no certificate", "error", err, "again", wait)
		default:
			k.metrics.requests.WithLabelValues("signed").Inc()
			k.metrics.notAfter.Set(float64(next.notAfter.Unix()))
			current, backoff = next, minBackoff
			k.set(next)
			wait = jitter(time.Until(next.notBefore.Add(next.notAfter.Sub(next.notBefore)/2)), 0.05)
			k.log.Info("certificate renewed", "until", next.notAfter, "again", wait)
		}
		timer := time.NewTimer(max(wait, minBackoff))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// jitter spreads what many do at the same time.
func jitter(d time.Duration, by float64) time.Duration {
	return time.Duration(float64(d) * (1 + by*(2*mathrand.Float64()-1)))
}

// request makes a new key and has it certified.
func (k *keeper) request(ctx context.Context, current *identity) (*identity, error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	// The authority knows who asks: the request names nobody.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	var old *tls.Certificate
	if current != nil && time.Now().Before(current.notAfter) {
		old = &current.cert
	}
	signed, err := k.signer.Sign(ctx, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), old)
	if err != nil {
		return nil, err
	}
	return newIdentity(key, signed)
}

func newIdentity(key crypto.Signer, signed ca.Signed) (*identity, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	id := &identity{
		chain: signed.Chain,
		key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		roots: signed.Roots,
	}
	// It also checks that the certificate is for this key.
	if id.cert, err = tls.X509KeyPair(id.chain, id.key); err != nil {
		return nil, fmt.Errorf("certificate that was signed: %w", err)
	}
	id.notBefore, id.notAfter = id.cert.Leaf.NotBefore, id.cert.Leaf.NotAfter
	switch {
	case !time.Now().Before(id.notAfter):
		return nil, fmt.Errorf("certificate that was signed: it ended at %v; is this machine's clock right?", id.notAfter)
	case !x509.NewCertPool().AppendCertsFromPEM(id.roots):
		return nil, errors.New("certificate that was signed: no root came with it")
	}
	return id, nil
}
