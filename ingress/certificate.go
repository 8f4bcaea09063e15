package ingress

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// maxCertificate is how many bytes of PEM a certificate with its chain, or a
// key, may have: far more than any has, and too few to keep a proxy busy.
const maxCertificate = 256 << 10

// parseCertificate makes the resource of a Secret of type kubernetes.io/tls,
// after checking what Envoy would: that chain and key parse and belong
// together. The error is for the user.
func parseCertificate(s *model.Secret) (*route.Secret, error) {
	if s.Type != corev1.SecretTypeTLS {
		return nil, fmt.Errorf("the Secret is of type %q, not %q", s.Type, corev1.SecretTypeTLS)
	}
	cert, key := s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
	switch {
	case len(cert) == 0:
		return nil, fmt.Errorf("the Secret has no %q", corev1.TLSCertKey)
	case len(key) == 0:
		return nil, fmt.Errorf("the Secret has no %q", corev1.TLSPrivateKeyKey)
	case len(cert) > maxCertificate || len(key) > maxCertificate:
		return nil, fmt.Errorf("certificate or key has more than %d KiB", maxCertificate>>10)
	}
	if err := checkChain(cert); err != nil {
		return nil, err
	}
	// The standard library's words ("tls: private key does not match public
	// key") say what is wrong.
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("%s and %s: %w", corev1.TLSCertKey, corev1.TLSPrivateKeyKey, err)
	}
	return &route.Secret{
		Name: s.Namespace + "/" + s.Name,
		Cert: bytes.Clone(cert),
		Key:  bytes.Clone(key),
	}, nil
}

// checkChain checks all certificates of a chain. X509KeyPair looks at the leaf
// only, and skips blocks of other types, which Envoy would not.
func checkChain(chain []byte) error {
	n := 0
	for rest := chain; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("%s holds a PEM block of type %q", corev1.TLSCertKey, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("%s: certificate %d: %w", corev1.TLSCertKey, n+1, err)
		}
	}
	if n == 0 {
		return errors.New(corev1.TLSCertKey + " holds no certificate in PEM form")
	}
	return nil
}

// goodSecret is a Secret that was well-formed, and its resource.
type goodSecret struct {
	from *model.Secret
	cert *route.Secret
}

// certificate returns the resource of the Secret of that name. If the Secret is
// there but malformed, it is the last one that was well-formed, if any, with
// the error: a mistake in a renewal does not take the listener down.
func (p *Planner) certificate(name model.Name) (*route.Secret, error) {
	s, ok := model.Secrets.Get(p.snap, name.Namespace, name.Name)
	if !ok {
		return nil, fmt.Errorf("the Secret %s does not exist", name)
	}
	last := p.lastGood[name]
	if last.from == s {
		return last.cert, nil
	}
	cert, err := parseCertificate(s)
	if err != nil {
		if last.cert != nil {
			return last.cert, fmt.Errorf("%s: %w; the last valid version stays in use", name, err)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if last.cert != nil && bytes.Equal(last.cert.Cert, cert.Cert) && bytes.Equal(last.cert.Key, cert.Key) {
		cert = last.cert
	}
	p.lastGood[name] = goodSecret{s, cert}
	return cert, nil
}
