package sidecar

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/mesh/spiffe"
)

// flaky is a signer that fails for a while and notes what it was asked.
type flaky struct {
	ca.Local
	mu      sync.Mutex // guards all below
	fails   int
	asked   []time.Time
	renewed []*tls.Certificate
	keys    map[string]bool
}

func (f *flaky) Sign(ctx context.Context, request []byte, current *tls.Certificate) (ca.Signed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, time.Now())
	f.renewed = append(f.renewed, current)
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return ca.Signed{}, err
	}
	f.keys[string(csr.RawSubjectPublicKeyInfo)] = true
	if f.fails--; f.fails >= 0 {
		return ca.Signed{}, errors.New("not now")
	}
	return f.Local.Sign(ctx, request, current)
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority, err := ca.Open(t.Context(), ca.Dir(t.TempDir()), ca.Options{})
		if err != nil {
			t.Fatal(err)
		}
		signer := &flaky{
			Local: ca.Local{CA: authority, ID: spiffe.ID{TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: "b"}},
			fails: 3, keys: map[string]bool{},
		}
		m, err := newMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []*identity
		k := &keeper{signer: signer, log: slog.New(slog.NewTextHandler(t.Output(), nil)), metrics: m, set: func(id *identity) {
			signer.mu.Lock()
			defer signer.mu.Unlock()
			got = append(got, id)
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		start := time.Now()
		go func() { done <- k.run(ctx) }()

		after := func(d time.Duration, check func()) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			signer.mu.Lock()
			defer signer.mu.Unlock()
			check()
		}
		after(10*time.Second, func() {
			if len(got) != 1 || len(signer.asked) != 4 {
				t.Fatalf("%d certificates after %d requests", len(got), len(signer.asked))
			}
			for i := 2; i < 4; i++ { // each wait is longer
				if a, b := signer.asked[i-1].Sub(signer.asked[i-2]), signer.asked[i].Sub(signer.asked[i-1]); b <= a {
					t.Errorf("waited %v, then %v", a, b)
				}
			}
		})
		after(14*time.Hour, func() { // half of the life and the jitter
			if len(got) != 2 {
				t.Fatalf("%d certificates after 14 h", len(got))
			}
			if at := signer.asked[4].Sub(start); at < 11*time.Hour || at > 13*time.Hour {
				t.Errorf("renewed after %v", at)
			}
			if signer.renewed[0] != nil || signer.renewed[4] == nil {
				t.Error("the certificate to renew is not shown, or there was one too early")
			}
			if len(signer.keys) != len(signer.asked) {
				t.Errorf("%d keys for %d requests", len(signer.keys), len(signer.asked))
			}
			signer.fails = 1 << 30
		})
		// The authority is away for longer than a certificate lives: the last
		// one stays, but is not shown when it has ended.
		after(48*time.Hour, func() {
			if len(got) != 2 || signer.renewed[len(signer.renewed)-1] != nil {
				t.Errorf("%d certificates", len(got))
			}
			signer.fails = 0
		})
		after(time.Minute, func() {
			if len(got) != 3 {
				t.Errorf("%d certificates after the authority came back", len(got))
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A certificate for another key, one that has ended, and one without roots are
// not taken.
func TestBadCertificate(t *testing.T) {
	past := time.Now().Add(-48 * time.Hour)
	old, err := ca.Open(t.Context(), ca.Dir(t.TempDir()), ca.Options{Now: func() time.Time { return past }})
	if err != nil {
		t.Fatal(err)
	}
	now, err := ca.Open(t.Context(), ca.Dir(t.TempDir()), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	id := spiffe.ID{TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: "b"}
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for name, sign := range map[string]signerFunc{
		"ended": ca.Local{CA: old, ID: id}.Sign,
		"without roots": func(ctx context.Context, r []byte, c *tls.Certificate) (ca.Signed, error) {
			s, err := ca.Local{CA: now, ID: id}.Sign(ctx, r, c)
			s.Roots = nil
			return s, err
		},
		"of another key": func(ctx context.Context, r []byte, c *tls.Certificate) (ca.Signed, error) {
			if first == nil {
				first = r
				return ca.Signed{}, errors.New("once more")
			}
			return ca.Local{CA: now, ID: id}.Sign(ctx, first, c)
		},
	} {
		k := &keeper{signer: sign, metrics: m}
		for range 2 {
			if _, err := k.request(t.Context(), nil); err == nil {
				t.Errorf("a certificate %s was taken", name)
			}
		}
	}
}

type signerFunc func(context.Context, []byte, *tls.Certificate) (ca.Signed, error)

func (f signerFunc) Sign(ctx context.Context, r []byte, c *tls.Certificate) (ca.Signed, error) {
	return f(ctx, r, c)
}
