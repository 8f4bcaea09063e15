package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sluicenet/sluice/xds/bootstrap"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// served is one secret as Envoy gets it.
type served struct {
	body    *anypb.Any
	version string
}

// secrets serves the workload's certificate and the roots to Envoy, by the
// secret discovery service in both of its protocols. What is asked for before
// it is there is answered when it is: Envoy waits.
type secrets struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	log *slog.Logger

	mu      sync.Mutex
	current map[string]served
	changed chan struct{} // closed and replaced by set
}

func newSecrets(log *slog.Logger) *secrets {
	return &secrets{log: log, current: map[string]served{}, changed: make(chan struct{})}
}

// set replaces what is served and pushes it to all streams.
func (s *secrets) set(id *identity) error {
	next := map[string]served{}
	for _, sec := range []*tlsv3.Secret{{
		Name: bootstrap.WorkloadSecret,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(id.chain), PrivateKey: inline(id.key),
		}},
	}, {
		Name: bootstrap.RootsSecret,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: inline(id.roots),
		}},
	}} {
		body, err := anypb.New(sec)
		if err != nil {
			return fmt.Errorf("secret %s: %w", sec.Name, err)
		}
		sum := sha256.Sum256(body.Value)
		next[sec.Name] = served{body, hex.EncodeToString(sum[:8])}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = next
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func inline(b []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
}

// get returns those secrets that there are, and a channel that is closed when
// that changes.
func (s *secrets) get(names []string) (map[string]served, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]served{}
	for _, n := range names {
		if v, ok := s.current[n]; ok {
			out[n] = v
		}
	}
	return out, s.changed
}

// receive reads a stream into a channel until it ends.
func receive[T any](ctx context.Context, recv func() (T, error)) <-chan T {
	ch := make(chan T)
	go func() {
		defer close(ch)
		for {
			m, err := recv()
			if err != nil {
				return
			}
			select {
			case ch <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch
}

// StreamSecrets implements the state-of-the-world protocol: an answer holds
// all secrets that the client names.
func (s *secrets) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	requests := receive(stream.Context(), stream.Recv)
	var (
		names []string
		sent  string // versions of the last answer
		nonce int
	)
	for {
		have, changed := s.get(names)
		var versions strings.Builder
		var bodies []*anypb.Any
		for _, n := range names {
			if v, ok := have[n]; ok {
				versions.WriteString(n + "=" + v.version + ";")
				bodies = append(bodies, v.body)
			}
		}
		version := versions.String()
		if version != sent && len(bodies) > 0 {
			nonce++
			sent = version
			sum := sha256.Sum256([]byte(version))
			if err := stream.Send(&discovery.DiscoveryResponse{
				TypeUrl: secretType, VersionInfo: hex.EncodeToString(sum[:8]), Nonce: strconv.Itoa(nonce), Resources: bodies,
			}); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		case req, ok := <-requests:
			if !ok {
				return nil
			}
			if err := s.check(req.GetTypeUrl(), req.GetErrorDetail().GetMessage()); err != nil {
				return err
			}
			names = distinct(req.GetResourceNames())
		}
	}
}

// DeltaSecrets implements the incremental protocol.
func (s *secrets) DeltaSecrets(stream secret.SecretDiscoveryService_DeltaSecretsServer) error {
	requests := receive(stream.Context(), stream.Recv)
	var (
		names []string
		has   = map[string]string{} // versions that the client has
		nonce int
	)
	for {
		have, changed := s.get(names)
		res := &discovery.DeltaDiscoveryResponse{TypeUrl: secretType}
		for _, n := range names {
			if v, ok := have[n]; ok && has[n] != v.version {
				has[n] = v.version
				res.Resources = append(res.Resources, &discovery.Resource{Name: n, Version: v.version, Resource: v.body})
			}
		}
		if len(res.Resources) > 0 {
			nonce++
			res.Nonce = strconv.Itoa(nonce)
			if err := stream.Send(res); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		case req, ok := <-requests:
			if !ok {
				return nil
			}
			if err := s.check(req.GetTypeUrl(), req.GetErrorDetail().GetMessage()); err != nil {
				return err
			}
			maps.Copy(has, req.GetInitialResourceVersions())
			for _, n := range req.GetResourceNamesUnsubscribe() {
				delete(has, n)
				names = slices.DeleteFunc(names, func(o string) bool { return o == n })
			}
			for _, n := range req.GetResourceNamesSubscribe() {
				if slices.Contains(names, n) {
					delete(has, n) // asked again: it wants it again
				}
			}
			names = distinct(append(names, req.GetResourceNamesSubscribe()...))
		}
	}
}

// maxNames bounds what a stream may ask for.
const maxNames = 64

func distinct(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxNames)]
}

// check looks at what is not a matter of names.
func (s *secrets) check(typeURL, refusal string) error {
	if typeURL != "" && typeURL != secretType {
		return status.Errorf(codes.InvalidArgument, "type %q is not served here", typeURL)
	}
	if refusal != "" {
		s.log.Error("Envoy refused a secret", "reason", refusal)
	}
	return nil
}
