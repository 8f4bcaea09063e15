package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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

// The node ports of a cluster that is not configured otherwise.
const firstNodePort, lastNodePort = 30000, 32767

// kernelFindings looks at settings of the kernel that Services depend on. Root is
// where proc and sys are mounted.
func kernelFindings(root string) []finding {
	read := func(path string) string {
		b, _ := os.ReadFile(filepath.Join(root, path)) // none: this kernel does not have it
		return strings.Join(strings.Fields(string(b)), " ")
	}
	var out []finding
	add := func(what string, err error) { out = append(out, finding{what: what, err: err, minor: true}) }

	const forward = "proc/sys/net/ipv4/ip_forward"
	var err error
	if read(forward) == "0" {
		err = errors.New("net.ipv4.ip_forward is 0, so that nothing from outside and from Pods reaches an endpoint; set it to 1")
	}
	add("forwarding", err)
	err = nil
	if read("proc/sys/net/bridge/bridge-nf-call-iptables") == "0" {
		err = errors.New("net.bridge.bridge-nf-call-iptables is 0: a Pod that is at the same bridge as its endpoint gets answers from the endpoint's own address; set it to 1 if Pods are at a bridge")
	}
	add("bridges", err)
	err = nil
	if devices, _ := filepath.Glob(filepath.Join(root, "sys/class/net/*/device")); read("proc/sys/net/ipv4/conf/all/rp_filter") == "1" && len(devices) > 1 {
		err = errors.New("net.ipv4.conf.all.rp_filter is 1 and there are several network cards: a connection to a NodePort that comes in by another card than its answers would take is dropped; set it to 2")
	}
	add("reverse path filter", err)
	add("connection tracking", conntrackRoom(read("proc/sys/net/netfilter/nf_conntrack_count"), read("proc/sys/net/netfilter/nf_conntrack_max")))
	add("node ports", ephemeralOverlap(read("proc/sys/net/ipv4/ip_local_port_range"), read("proc/sys/net/ipv4/ip_local_reserved_ports")))
	return out
}

// conntrackRoom says whether the kernel's memory of connections is nearly full:
// then it drops new ones, of Services and others.
func conntrackRoom(count, most string) error {
	n, errN := strconv.Atoi(count)
	m, errM := strconv.Atoi(most)
	if errN != nil || errM != nil || n*10 < m*9 {
		return nil
	}
	return fmt.Errorf("%d of %d connections are remembered (net.netfilter.nf_conntrack_max), and new ones are dropped when it is full; raise it with --proxy-conntrack-max-per-core", n, m)
}

// ephemeralOverlap says whether the kernel may give a node port to an outgoing
// connection, whose answers then go to the Service.
func ephemeralOverlap(ports, reserved string) error {
	var first, last int
	if _, err := fmt.Sscanf(ports, "%d %d", &first, &last); err != nil || first > lastNodePort || last < firstNodePort {
		return nil
	}
	kept := map[int]bool{}
	for part := range strings.SplitSeq(reserved, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		for n := a; errA == nil && errB == nil && n <= min(b, 65535); n++ {
			kept[n] = true
		}
	}
	for n := max(first, firstNodePort); n <= min(last, lastNodePort); n++ {
		if !kept[n] {
			return fmt.Errorf("net.ipv4.ip_local_port_range is %d-%d, which has node ports (%d-%d) in it: an outgoing connection may get one and lose its answers; set net.ipv4.ip_local_reserved_ports to %d-%d",
				first, last, firstNodePort, lastNodePort, firstNodePort, lastNodePort)
		}
	}
	return nil
}
