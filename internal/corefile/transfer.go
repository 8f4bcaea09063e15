package corefile

import (
	"net/netip"
	"slices"
	"strings"
)

// transfer takes over who may have the cluster's zone transferred.
func (im *importer) transfer(s *server, d directive) {
	isCluster := func(z string) bool {
		z = strings.ToLower(strings.TrimSuffix(z, "."))
		return z == im.zone || isPlaceholder(z)
	}
	if len(s.find("kubernetes")) == 0 || len(d.args) > 0 && !slices.ContainsFunc(d.args, isCluster) {
		im.lost(d, "only the cluster's zones are transferred")
		return
	}
	for _, o := range d.body {
		if o.name != "to" {
			im.lost(o, "there is nothing like it for transfers")
			continue
		}
		for _, to := range o.args {
			ranges, ok := transferRanges(to)
			if !ok {
				im.lost(o, "%s is neither an address nor *", to)
				continue
			}
			if to != "*" {
				im.lost(o, "%s may ask for transfers, but is not notified of changes", to)
			}
			for _, r := range ranges {
				if !slices.Contains(im.c.DNS.Transfer, r) {
					im.c.DNS.Transfer = append(im.c.DNS.Transfer, r)
				}
			}
		}
	}
}

// transferRanges reads * for everybody, or an address, whose port is where it would be
// notified.
func transferRanges(to string) ([]netip.Prefix, bool) {
	if to == "*" {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}, true
	}
	addr, err := netip.ParseAddr(to)
	if err != nil {
		ap, err := netip.ParseAddrPort(to)
		if err != nil {
			return nil, false
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	return []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}, true
}
