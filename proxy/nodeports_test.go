package proxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestNodePortAddresses(t *testing.T) {
	node := addrs("10.240.0.11", "192.0.2.1", "fd00::11")
	for _, test := range []struct {
		list      []string
		node      []netip.Addr
		want      []netip.Prefix
		localhost bool
	}{
		{nil, node, nil, false},
		{[]string{"all"}, node, nil, false},
		{[]string{"all", "localhost"}, node, nil, true},
		{[]string{"all", "10.0.0.0/8"}, node, nil, false},
		{[]string{"primary"}, node, prefixes("10.240.0.11/32", "fd00::11/128"), false},
		{[]string{"primary"}, node[:1], prefixes("10.240.0.11/32", "::/128"), false},
		{[]string{"primary"}, nil, prefixes("0.0.0.0/32", "::/128"), false},
		{[]string{"primary", "localhost", "192.0.2.0/24"}, node, prefixes("192.0.2.0/24", "10.240.0.11/32", "fd00::11/128"), true},
		{[]string{"localhost"}, node, prefixes("0.0.0.0/32", "::/128"), true},
		{[]string{"none"}, node, prefixes("0.0.0.0/32", "::/128"), false},
		{[]string{"127.0.0.0/8"}, node, prefixes("0.0.0.0/32"), true},
		{[]string{"192.0.2.7/24"}, node, prefixes("192.0.2.0/24"), false},
		{[]string{"0.0.0.0/0", "::1/128"}, node, prefixes("0.0.0.0/0", "::/128"), true},
	} {
		a, err := ParseNodePortAddresses(test.list)
		if err != nil {
			t.Errorf("%v: %v", test.list, err)
			continue
		}
		if got, localhost := a.resolve(test.node); !slices.Equal(got, test.want) || localhost != test.localhost {
			t.Errorf("%v: got %v, %v, want %v, %v", test.list, got, localhost, test.want, test.localhost)
		}
	}
	for _, bad := range []string{"", "everything", "10.0.0.1", "10.0.0.0/33", "::ffff:10.0.0.0/104"} {
		if _, err := ParseNodePortAddresses([]string{"all", bad}); err == nil || !strings.Contains(err.Error(), "nodePortAddresses[1]") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func FuzzParseNodePortAddresses(f *testing.F) {
	for _, s := range []string{"all", "primary", "localhost", "10.0.0.0/8", "::/0", "::1/128"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseNodePortAddresses([]string{s})
		if prefixes, _ := a.resolve(nil); err == nil && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p != p.Masked() }) {
			t.Errorf("%q: %v is not masked", s, prefixes)
		}
	})
}
