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

// Every address that cannot be intercepted is named by its place.
func TestCheckAddresses(t *testing.T) {
	if err := CheckAddresses([]netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd73:6c75:6963:6500::20:10"), netip.MustParseAddr("10.96.0.10")}); err != nil {
		t.Error(err)
	}
	err := CheckAddresses([]netip.Addr{
		netip.MustParseAddr("169.254.20.128"), netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("::1"),
		{}, netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd73:6c75:6963:6500::20:80"),
	})
	want := `addresses[0]: expected an address outside of 169.254.20.128/26, which interception uses itself, found 169.254.20.128
addresses[2]: expected an address such as 169.254.20.10 that nobody else has, found ::1
addresses[3]: expected an address such as 169.254.20.10 that nobody else has, found invalid IP
addresses[4]: expected each address once, found 169.254.20.10 again
addresses[5]: expected an address outside of fd73:6c75:6963:6500::20:80/122, which interception uses itself, found fd73:6c75:6963:6500::20:80`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
