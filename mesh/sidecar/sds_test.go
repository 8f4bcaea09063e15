package sidecar

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

func serve(t *testing.T) (*secrets, secret.SecretDiscoveryServiceClient) {
	t.Helper()
	s := newSecrets(slog.New(slog.NewTextHandler(t.Output(), nil)))
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serveSecrets(ctx, ln, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return s, secret.NewSecretDiscoveryServiceClient(conn)
}

func put(t *testing.T, s *secrets, chain, roots string) {
	t.Helper()
	if err := s.set(&identity{chain: []byte(chain), key: []byte("key"), roots: []byte(roots)}); err != nil {
		t.Fatal(err)
	}
}

func decode(t *testing.T, body *anypb.Any) (name, text string) {
	t.Helper()
	var sec tlsv3.Secret
	if err := body.UnmarshalTo(&sec); err != nil {
		t.Fatal(err)
	}
	if v := sec.GetValidationContext(); v != nil {
		return sec.Name, string(v.TrustedCa.GetInlineBytes())
	}
	return sec.Name, string(sec.GetTlsCertificate().CertificateChain.GetInlineBytes())
}

func TestStateOfTheWorld(t *testing.T) {
	s, client := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := client.StreamSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *discovery.DiscoveryRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	last := ""
	next := func(want string) *discovery.DiscoveryResponse {
		t.Helper()
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if name, text := decode(t, r.Resources[0]); len(r.Resources) != 1 || name+"="+text != want || r.VersionInfo == last || r.TypeUrl != secretType {
			t.Fatalf("got %v, want %s", r, want)
		}
		last = r.VersionInfo
		return r
	}
	// Asked for before it is there, and answered when it is.
	send(&discovery.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"workload"}})
	put(t, s, "chain1", "roots1")
	r := next("workload=chain1")
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"workload"}, ResponseNonce: r.Nonce, VersionInfo: r.VersionInfo})
	// Only what was named is sent, and only when it changes.
	put(t, s, "chain1", "roots2")
	put(t, s, "chain2", "roots2")
	r = next("workload=chain2")
	send(&discovery.DiscoveryRequest{ResourceNames: []string{"roots"}, ResponseNonce: r.Nonce, VersionInfo: r.VersionInfo})
	next("roots=roots2")
	send(&discovery.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another type: %v", err)
	}
}

func TestDelta(t *testing.T) {
	s, client := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := client.DeltaSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	next := func(want ...string) *discovery.DeltaDiscoveryResponse {
		t.Helper()
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for i, res := range r.Resources {
			if name, text := decode(t, res.Resource); len(r.Resources) != len(want) || name+"="+text != want[i] || res.Name != name {
				t.Fatalf("got %v, want %s", r, want)
			}
		}
		return r
	}
	put(t, s, "chain1", "roots1")
	send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"workload", "roots"}})
	r := next("roots=roots1", "workload=chain1")
	send(&discovery.DeltaDiscoveryRequest{ResponseNonce: r.Nonce})
	put(t, s, "chain2", "roots1")
	r = next("workload=chain2")
	send(&discovery.DeltaDiscoveryRequest{ResponseNonce: r.Nonce, ResourceNamesUnsubscribe: []string{"workload"}})
	send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"roots"}}) // again
	next("roots=roots1")
	put(t, s, "chain3", "roots2")
	next("roots=roots2")

	// What a client has already after a reconnection is not sent again.
	have, _ := s.get([]string{"roots"})
	if stream, err = client.DeltaSecrets(ctx); err != nil {
		t.Fatal(err)
	}
	send(&discovery.DeltaDiscoveryRequest{
		ResourceNamesSubscribe: []string{"roots", "workload"}, InitialResourceVersions: map[string]string{"roots": have["roots"].version},
	})
	next("workload=chain3")
}
