package dns

import (
	"context"
	"slices"

	"github.com/sluicenet/sluice/dns/forward"
)

// readResolvConf takes the root's servers from the resolv.conf, if that is where
// they come from. What is wrong with it is logged: cluster names are answered all
// the same, and the servers that were known stay.
func (s *Server) readResolvConf() {
	if !s.followsResolvConf() {
		return
	}
	conf, err := forward.ReadResolvConf(s.ResolvConf, s.forward.Self)
	if err != nil {
		if message := err.Error(); message != s.resolvError {
			s.Log.Warn("dns: no servers for names outside of the cluster", "err", err)
			s.resolvError = message
			s.resolvProblem.Store(&message)
		}
		return
	}
	s.resolvError = ""
	s.resolvProblem.Store(nil)
	if s.resolv != nil && slices.Equal(conf.Servers, s.resolv.Servers) &&
		conf.Rotate == s.resolv.Rotate && conf.Timeout == s.resolv.Timeout && conf.Attempts == s.resolv.Attempts {
		return
	}
	for _, why := range conf.Skipped {
		s.Log.Warn("dns: upstream not used", "err", why)
	}
	i := slices.IndexFunc(s.forward.Zones, isRoot)
	zone := s.forward.Zones[i]
	zone.Servers, zone.Timeout, zone.Attempts = conf.Servers, conf.Timeout, conf.Attempts
	if conf.Rotate && zone.Policy == forward.Sequential {
		zone.Policy = forward.RoundRobin
	}
	if err := s.forward.SetZone(zone); err != nil {
		s.Log.Warn("dns: upstreams not changed", "err", err)
		return
	}
	s.resolv = conf
	s.Log.Info("dns: upstreams read", "file", s.ResolvConf, "upstreams", s.upstreams())
}

// followResolvConf keeps the root's servers at what the resolv.conf says.
func (s *Server) followResolvConf(ctx context.Context) error {
	if !s.followsResolvConf() {
		return nil
	}
	if err := forward.WatchFile(ctx, s.readResolvConf, s.ResolvConf, forward.ResolvedConf); err != nil {
		s.Log.Warn("dns: changes of the resolv.conf are seen late", "err", err)
	}
	return nil
}

// upstreams returns the servers for logs.
func (s *Server) upstreams() []string {
	var list []string
	for _, u := range s.forward.Stats() {
		list = append(list, u.Server.String())
	}
	return list
}
