package main

import (
	"os"
	"strconv"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/proxy/sysctl"
)

// conntrackSettings are the limits and timeouts that are configured.
func conntrackSettings(c config.Conntrack) []sysctl.Setting {
	return sysctl.Conntrack{
		MaxPerCore: int(c.MaxPerCore), Min: int(c.Min),
		TCPEstablishedTimeout: c.TCPEstablishedTimeout.Duration, TCPCloseWaitTimeout: c.TCPCloseWaitTimeout.Duration,
		TCPBeLiberal: c.TCPBeLiberal, UDPTimeout: c.UDPTimeout.Duration, UDPStreamTimeout: c.UDPStreamTimeout.Duration,
	}.Settings(sysctl.CPUs())
}

// tune sets what of the machine is configured besides the rules. What may not
// be set, as in a container that is not privileged, is told and left: Services
// work without it.
func (p *process) tune() {
	c := p.conf.Proxy
	changed, warnings, err := sysctl.Applier{}.Apply(conntrackSettings(c.Conntrack))
	for _, s := range changed {
		p.log.Info("kernel setting changed", "path", "/"+s.Path, "before", s.Before, "now", s.Value)
	}
	if warnings != nil {
		p.log.Debug("kernel settings that this kernel does not have", "error", warnings)
	}
	if err != nil {
		p.log.Warn("the kernel's memory of connections is not as configured (proxy.conntrack)", "error", err)
	}
	if c.OOMScoreAdj != 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(c.OOMScoreAdj))), 0o644); err != nil {
			p.log.Warn("this process may be ended when memory is short (proxy.oomScoreAdj)", "error", err)
		}
	}
}
