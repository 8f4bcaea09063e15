package dns

import (
	"fmt"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/dns/zone"
)

// delegate finds the zones that are forwarded although they are parts of the
// cluster's: of two zones the longer one answers, as in CoreDNS.
func (s *Server) delegate() error {
	s.delegated = map[int]bool{}
	for i, z := range s.forward.Zones {
		if isRoot(z) {
			continue
		}
		name, err := wire.ParseName(z.Name)
		if err != nil {
			return fmt.Errorf("dns: zone to forward: %w", err)
		}
		if s.planner.Below(wire.AppendLower(nil, name)) {
			s.delegated[i] = true
		}
	}
	return nil
}

// lookup is what the cluster's zone knows of a name, in lower case, unless other
// servers are to be asked for it.
func (s *Server) lookup(z *zone.Zone, name []byte, typ uint16) zone.Answer {
	if len(s.delegated) > 0 && s.delegated[s.forward.Zone(name)] {
		return zone.Answer{Status: zone.Elsewhere}
	}
	return z.Lookup(name, typ)
}
