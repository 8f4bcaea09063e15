package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/mesh/spiffe"
	"github.com/sluicenet/sluice/model"
)

func open(t testing.TB, o ca.Options) *ca.CA {
	t.Helper()
	c, err := ca.Open(context.Background(), ca.Dir(t.TempDir()), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// request is a certificate request that asks for more than it may.
func request(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs:     []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/kube-system/sa/admin"}},
		DNSNames: []string{"sluice-controlplane.sluice-system.svc"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func leaf(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("expected one certificate, found %q", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var orders = spiffe.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "orders"}

func TestSign(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := open(t, ca.Options{Now: func() time.Time { return now }})
	text, err := c.Sign(orders, request(t, newKey(t)), 0)
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, text)
	if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://cluster.local/ns/shop/sa/orders" {
		t.Errorf("URIs %v", cert.URIs)
	}
	if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || cert.Subject.String() != "" || cert.IsCA {
		t.Errorf("it says more than who it is: %+v", cert)
	}
	if !cert.NotBefore.Equal(now.Add(-time.Minute)) || !cert.NotAfter.Equal(now.Add(24*time.Hour)) {
		t.Errorf("from %v to %v", cert.NotBefore, cert.NotAfter)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: c.Pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Error(err)
		}
	}
	for asked, want := range map[time.Duration]time.Duration{time.Hour: time.Hour, 48 * time.Hour: 24 * time.Hour, -1: 24 * time.Hour} {
		text, err := c.Sign(orders, request(t, newKey(t)), asked)
		if err != nil {
			t.Fatal(err)
		}
		if got := leaf(t, text).NotAfter.Sub(now); got != want {
			t.Errorf("asked for %v, got %v", asked, got)
		}
	}
	now = now.Add(10*365*24*time.Hour - time.Hour)
	if text, err = c.Sign(orders, request(t, newKey(t)), 0); err != nil {
		t.Fatal(err)
	}
	if got := leaf(t, text).NotAfter.Sub(now); got != time.Hour {
		t.Errorf("it outlives its root: %v", got)
	}
}

func TestSignRefuses(t *testing.T) {
	c := open(t, ca.Options{})
	good := request(t, newKey(t))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	forged := bytes.Clone(block.Bytes)
	forged[len(forged)-1] ^= 1
	for name, req := range map[string][]byte{
		"nothing":          nil,
		"no PEM":           block.Bytes,
		"another type":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}),
		"a bad signature":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}),
		"a weak key":       request(t, weak),
		"an Ed25519 key":   request(t, ed),
		"very many bytes":  bytes.Repeat(good, 100),
		"half of the text": good[:len(good)/2],
	} {
		var bad *ca.RequestError
		if _, err := c.Sign(orders, req, 0); !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []spiffe.ID{
		{}, {TrustDomain: "elsewhere", Namespace: "a", ServiceAccount: "b"},
		{TrustDomain: "cluster.local", Namespace: "a/sa/admin", ServiceAccount: "b"},
		{TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: ""},
	} {
		if _, err := c.Sign(id, good, 0); err == nil {
			t.Errorf("%+v was signed", id)
		}
	}
}

func TestDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	// Several at once: one makes it, all have the same.
	var wg sync.WaitGroup
	roots := make([][]byte, 8)
	for i := range roots {
		wg.Go(func() {
			c, err := ca.Open(t.Context(), ca.Dir(dir), ca.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = c.Roots()
		})
	}
	wg.Wait()
	for _, r := range roots {
		if !bytes.Equal(r, roots[0]) {
			t.Fatal("two authorities were made")
		}
	}
	info, err := os.Stat(filepath.Join(dir, ca.AuthorityFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	text, err := os.ReadFile(filepath.Join(dir, ca.RootsFile))
	if err != nil || !bytes.Equal(text, roots[0]) || bytes.Contains(text, []byte("KEY")) {
		t.Errorf("%q %v", text, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left over: %v %v", entries, err)
	}
	// Several roots survive.
	m, err := ca.Dir(dir).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, ca.Options{})
	m.Roots = append(bytes.Clone(m.Roots), other.Roots()...)
	second := t.TempDir()
	if err := ca.Dir(second).Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := ca.Dir(second).Create(t.Context(), m); !errors.Is(err, fs.ErrExist) {
		t.Errorf("it was replaced: %v", err)
	}
	c, err := ca.Open(t.Context(), ca.Dir(second), ca.Options{})
	if err != nil || !bytes.Equal(c.Roots(), m.Roots) {
		t.Errorf("%v: %s", err, c.Roots())
	}
	signed, err := other.Sign(orders, request(t, newKey(t)), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf(t, signed).Verify(x509.VerifyOptions{Roots: c.Pool()}); err != nil {
		t.Error("the second root is not trusted:", err)
	}
	if err := os.WriteFile(filepath.Join(second, ca.AuthorityFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Open(t.Context(), ca.Dir(second), ca.Options{}); err == nil {
		t.Error("a broken file was taken, or overwritten")
	}
}

func TestSecret(t *testing.T) {
	st := ca.SecretStorage{Client: fake.NewClientset(), Namespace: "sluice-system", Name: "ca"}
	a, err := ca.Open(t.Context(), st, ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := ca.Open(t.Context(), st, ca.Options{})
	if err != nil || !bytes.Equal(a.Roots(), b.Roots()) {
		t.Errorf("another authority: %v", err)
	}
	if err := st.Create(t.Context(), ca.Material{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("it was replaced: %v", err)
	}
}

// endpoint serves an authority on loopback.
func endpoint(t *testing.T, c *ca.CA, auth ca.Authenticator) *ca.Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(c.ServerTLS())))
	ca.NewServer(c, auth, nil).Register(g)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	return &ca.Client{Address: ln.Addr().String(), Roots: func() ([]byte, error) { return c.Roots(), nil }}
}

func tokens() ca.SecretTokens {
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		add := func(name, kind, account, token string) {
			model.Secrets.Put(tx, &model.Secret{
				Meta: model.Meta{Namespace: "shop", Name: name, Annotations: map[string]string{"kubernetes.io/service-account.name": account}},
				Type: "kubernetes.io/" + "service-account-token", Data: map[string][]byte{"token": []byte(token)},
			})
			if kind != "" {
				model.Secrets.Put(tx, &model.Secret{
					Meta: model.Meta{Namespace: "shop", Name: name, Annotations: map[string]string{"kubernetes.io/service-account.name": account}},
					Type: "Opaque", Data: map[string][]byte{"token": []byte(token)},
				})
			}
		}
		add("orders", "", "orders", "secret-of-orders")
		add("empty", "", "empty", "")
		add("nameless", "", "", "secret-of-nobody")
		add("opaque", "Opaque", "opaque", "secret-in-opaque")
	})
	return ca.SecretTokens{Store: store}
}

func TestServer(t *testing.T) {
	c := open(t, ca.Options{})
	client := endpoint(t, c, tokens())
	token := func(s string) func() (string, error) { return func() (string, error) { return s, nil } }
	for _, bad := range []string{"", "wrong", "secret-of-order", "secret-of-orders1", "secret-of-nobody", "secret-in-opaque"} {
		client.Token = token(bad)
		if _, err := client.Sign(t.Context(), request(t, newKey(t)), nil); status.Code(err) != codes.Unauthenticated {
			t.Errorf("token %q: %v", bad, err)
		}
	}
	client.Token = nil
	if _, err := client.Sign(t.Context(), request(t, newKey(t)), nil); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no token: %v", err)
	}
	client.Token = token("secret-of-orders\n")
	if _, err := client.Sign(t.Context(), []byte("rubbish"), nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no request: %v", err)
	}
	key := newKey(t)
	signed, err := client.Sign(t.Context(), request(t, key), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := leaf(t, signed.Chain).URIs[0].String(); got != orders.String() || !bytes.Equal(signed.Roots, c.Roots()) {
		t.Errorf("signed as %s", got)
	}

	// Renewed by the certificate alone; beside a wrong token it counts for
	// nothing.
	current := &tls.Certificate{Certificate: [][]byte{leaf(t, signed.Chain).Raw}, PrivateKey: key}
	client.Token = nil
	signed, err = client.Sign(t.Context(), request(t, newKey(t)), current)
	if err != nil || leaf(t, signed.Chain).URIs[0].String() != orders.String() {
		t.Errorf("renewal: %v", err)
	}
	client.Token = token("wrong")
	if _, err := client.Sign(t.Context(), request(t, newKey(t)), current); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a wrong token and a good certificate: %v", err)
	}

	// Nobody else's certificate counts, and not the server's own either.
	client.Token = nil
	other := open(t, ca.Options{})
	foreign, err := other.Sign(orders, request(t, key), 0)
	if err != nil {
		t.Fatal(err)
	}
	own, err := c.ServerTLS().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]*tls.Certificate{
		"another authority's": {Certificate: [][]byte{leaf(t, foreign).Raw}, PrivateKey: key},
		"the server's":        own,
	} {
		if _, err := client.Sign(t.Context(), request(t, newKey(t)), cert); err == nil {
			t.Errorf("%s certificate was taken", name)
		}
	}
	// A client does not talk to another authority, nor to another name.
	client.Token = token("secret-of-orders")
	client.Roots = func() ([]byte, error) { return other.Roots(), nil }
	if _, err := client.Sign(t.Context(), request(t, newKey(t)), nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another authority: %v", err)
	}
	client.Roots, client.ServerName = func() ([]byte, error) { return c.Roots(), nil }, "other.example"
	if _, err := client.Sign(t.Context(), request(t, newKey(t)), nil); err == nil {
		t.Error("a server of another name was believed")
	}
}

func TestTokenReviews(t *testing.T) {
	clients := fake.NewClientset()
	var answer authenticationv1.TokenReviewStatus
	clients.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if r.Spec.Token != "t" || len(r.Spec.Audiences) != 1 || r.Spec.Audiences[0] != ca.Audience {
			t.Errorf("asked %+v", r.Spec)
		}
		r.Status = answer
		return true, r, nil
	})
	auth := ca.TokenReviews{Client: clients}
	user := func(name string) authenticationv1.UserInfo { return authenticationv1.UserInfo{Username: name} }
	good := "system:serviceaccount:shop:orders"
	for _, c := range []struct {
		status authenticationv1.TokenReviewStatus
		ok     bool
	}{
		{authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{ca.Audience}, User: user(good)}, true},
		{authenticationv1.TokenReviewStatus{Authenticated: false, Audiences: []string{ca.Audience}, User: user(good)}, false},
		{authenticationv1.TokenReviewStatus{Authenticated: true, User: user(good)}, false},
		{authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"other"}, User: user(good)}, false},
		{authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{ca.Audience}, User: user("system:node:n")}, false},
	} {
		answer = c.status
		id, err := auth.Authenticate(t.Context(), "t")
		if (err == nil) != c.ok || c.ok && (id.Namespace != "shop" || id.ServiceAccount != "orders") {
			t.Errorf("%+v: %v %v", c.status, id, err)
		}
	}
}

func TestServerCertificate(t *testing.T) {
	now := time.Now()
	c := open(t, ca.Options{Life: time.Hour, Now: func() time.Time { return now }})
	conf := c.ServerTLS("10.0.0.1", "other.example")
	first, err := conf.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(first.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ca.ServerName, "10.0.0.1", "other.example"} {
		if err := cert.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	now = now.Add(29 * time.Minute)
	if again, _ := conf.GetCertificate(nil); again != first {
		t.Error("it was renewed too early")
	}
	now = now.Add(2 * time.Minute)
	if again, _ := conf.GetCertificate(nil); again == first {
		t.Error("it was not renewed at half of its life")
	}
}

func FuzzSign(f *testing.F) {
	c := open(f, ca.Options{})
	f.Add(request(f, newKey(f)))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, req []byte) {
		text, err := c.Sign(orders, req, 0)
		if err != nil {
			return
		}
		if cert := leaf(t, text); len(cert.URIs) != 1 || cert.URIs[0].String() != orders.String() || len(cert.DNSNames) > 0 || cert.IsCA {
			t.Fatalf("%q made %+v", req, cert)
		}
	})
}
