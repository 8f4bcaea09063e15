package intercept

import (
	"net/netip"
	"strings"
	"testing"
)

func TestTooManyAddresses(t *testing.T) {
	var o Options
	for a := netip.MustParseAddr("169.254.20.10"); len(o.Addresses) < maxSlots; a = a.Next() {
		o.Addresses = append(o.Addresses, a)
	}
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "expected at most 7 addresses of a family, found 169.254.20.17 besides") {
		t.Errorf("error %v", err)
	}
}
