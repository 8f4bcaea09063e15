package intercept

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/vm"
	engine "github.com/sluicenet/sluice/proxy/ipvs"
)

// TestBesideIPVS is [TestBesideKubeProxy] beside a service proxy on IPVS, whose
// addresses are local ones of the node.
func TestBesideIPVS(t *testing.T) {
	if !vm.Here(t, engine.Probe) {
		return
	}
	w := newWorld(t)
	err := w.node.Do(func() error {
		h, err := ipvs.New("")
		if err != nil {
			return err
		}
		defer h.Close()
		for _, six := range []bool{false, true} {
			vip, to, family, mask := cluster4, w.remote.IPv4(), uint16(unix.AF_INET), uint32(0xffffffff)
			if six {
				vip, to, family, mask = cluster6, w.remote.IPv6(), unix.AF_INET6, 128
			}
			for _, protocol := range []uint16{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
				s := &ipvs.Service{Address: vip.AsSlice(), Protocol: protocol, Port: Port, SchedName: ipvs.RoundRobin, AddressFamily: family, Netmask: mask}
				if err := h.NewService(s); err != nil {
					return err
				}
				d := &ipvs.Destination{Address: to.AsSlice(), Port: Port, Weight: 1, AddressFamily: family, ConnectionFlags: ipvs.ConnectionFlagMasq}
				if err := h.NewDestination(s, d); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{cluster4, cluster6} {
		lo, err := w.node.Netlink().LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := w.node.Netlink().AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
	// The node itself would need masquerading, which is not IPVS's.
	pods := func(all []target) []target {
		return slices.DeleteFunc(all, func(x target) bool { return x.from != w.pod.Namespace })
	}
	w.check(byRemote, pods(w.services())...)
	p := w.start(w.config())
	w.check(byNode, w.targets()...)
	p.signal(syscall.SIGSTOP)
	w.check(byRemote, pods(w.targets())...)
	p.signal(syscall.SIGCONT)
	w.check(byNode, w.targets()...)
	p.signal(syscall.SIGKILL)
	_ = p.Wait()
	w.check(byRemote, pods(w.targets())...)
	w.start(w.config())
	w.check(byNode, w.targets()...)
}
