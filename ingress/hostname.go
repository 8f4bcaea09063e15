package ingress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// anyHost stands for a listener or a route without a hostname.
const anyHost = "*"

// parseHostname returns a hostname of the API in lower case; an empty one is
// [anyHost]. A wildcard is "*." before a name. It follows RFC 1123 and the
// patterns of the API's own validation, which a directory of manifests has not
// been through.
func parseHostname(s string) (string, error) {
	if s == "" {
		return anyHost, nil
	}
	h := strings.ToLower(s)
	if _, err := netip.ParseAddr(h); err == nil {
		return "", fmt.Errorf("hostname %q is an IP address", s)
	}
	if err := checkDNSName(strings.TrimPrefix(h, "*.")); err != nil {
		return "", fmt.Errorf("hostname %q: %w", s, err)
	}
	return h, nil
}

var errDNSName = errors.New("not a DNS name (RFC 1123), nor one after \"*.\"")

func checkDNSName(s string) error {
	if len(s) == 0 || len(s) > 253 {
		return errDNSName
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errDNSName
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return errDNSName
			}
		}
	}
	return nil
}

// covers reports whether every host that b means is one that a means. Each is a
// name, a wildcard or anyHost. A wildcard stands for any number of labels, but
// at least one.
func covers(a, b string) bool {
	if a == anyHost || a == b {
		return true
	}
	if suffix, ok := wildcard(a); ok {
		return len(b) > len(suffix) && strings.HasSuffix(b, suffix)
	}
	return false
}

// wildcard returns ".example.com" for "*.example.com".
func wildcard(h string) (suffix string, ok bool) {
	if strings.HasPrefix(h, "*.") {
		return h[1:], true
	}
	return "", false
}

// intersect returns the hosts that both a and b mean.
func intersect(a, b string) (string, bool) {
	switch {
	case covers(a, b):
		return b, true
	case covers(b, a):
		return a, true
	}
	return "", false
}

// specificity orders hostnames as the HTTPRoute specification does: by the
// number of characters of a name without a wildcard, then of any.
func specificity(h string) int {
	if h == anyHost {
		return 0
	}
	if _, ok := wildcard(h); ok {
		return len(h)
	}
	return 1<<16 + len(h)
}
