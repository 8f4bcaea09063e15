// Package spiffe writes and reads the identities of workloads as SPIFFE IDs:
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
package spiffe

import (
	"fmt"
	"net/url"
	"strings"
)

// ID is the identity of a workload: its service account in a trust domain.
type ID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// DefaultTrustDomain is that of a mesh of which nothing else is said.
const DefaultTrustDomain = "cluster.local"

// String returns the ID as a URI.
func (id ID) String() string {
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// URL returns the ID as a certificate's URI SAN has it.
func (id ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}
}

// Parse reads what [ID.String] writes. The error says what is wrong with it.
func Parse(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("SPIFFE ID %q: expected the scheme spiffe", s)
	}
	part := strings.Split(rest, "/")
	if len(part) != 5 || part[1] != "ns" || part[3] != "sa" {
		return ID{}, fmt.Errorf("SPIFFE ID %q: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>", s)
	}
	for _, p := range []string{part[0], part[2], part[4]} {
		if err := segment(p); err != nil {
			return ID{}, fmt.Errorf("SPIFFE ID %q: %w", s, err)
		}
	}
	return ID{TrustDomain: part[0], Namespace: part[2], ServiceAccount: part[4]}, nil
}

// Validate checks that the ID can be written, so that a name cannot forge
// another identity by holding a slash.
func (id ID) Validate() error {
	_, err := Parse(id.String())
	return err
}

// segment allows the characters of a path segment (SPIFFE-ID §2.2), which all
// Kubernetes names are made of.
func segment(s string) error {
	if s == "" || s == "." || s == ".." {
		return fmt.Errorf("expected a name, found %q", s)
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return fmt.Errorf("expected letters, digits, '-', '.' and '_' in %q", s)
		}
	}
	return nil
}
