package translate

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// minRSA is the size in bits of the smallest RSA key that Envoy takes.
const minRSA = 2048

// secret checks a certificate and its key, or roots, as Envoy does.
func secret(s *route.Secret) (delta.Resource, error) {
	out := &tlsv3.Secret{Name: s.Name}
	if len(s.Roots) > 0 {
		if err := checkRoots(s.Roots); err != nil {
			return delta.Resource{}, fmt.Errorf("the roots: %w", err)
		}
		out.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: inline(s.Roots),
		}}
	} else {
		if err := checkKeyPair(s.Cert, s.Key); err != nil {
			return delta.Resource{}, err
		}
		out.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(s.Cert),
			PrivateKey:       inline(s.Key),
		}}
	}
	return resource(secretRef(s.Name), out)
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// checkKeyPair returns why Envoy would refuse a certificate and its key.
func checkKeyPair(cert, key []byte) error {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("the certificate and its key: %w", err)
	}
	switch k := pair.PrivateKey.(type) {
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSA {
			return fmt.Errorf("the key: RSA of %d bits, at least %d are needed", bits, minRSA)
		}
	case *ecdsa.PrivateKey:
		switch name := k.Curve.Params().Name; name {
		case "P-256", "P-384", "P-521":
		default:
			return fmt.Errorf("the key: ECDSA of curve %s, which Envoy does not take", name)
		}
	default:
		return fmt.Errorf("the key: %T, Envoy takes RSA and ECDSA", k)
	}
	return nil
}

// checkRoots returns why PEM is not a list of certificates.
func checkRoots(raw []byte) error {
	n := 0
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return errors.New("no certificate in PEM")
	}
	return nil
}
