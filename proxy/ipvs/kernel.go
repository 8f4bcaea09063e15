package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// destination is one that the kernel has, with how many connections it has, and
// how many of them neither begin nor end.
type destination struct {
	weight              int
	connections, active int
}

// bound is what addresses are this machine's: by our routes, and otherwise.
type bound struct {
	ours, others map[netip.Addr]bool
}

// kernel is what the engine needs of the kernel besides the packet filter.
type kernel interface {
	// prepare makes the interface and sets what sysctl has.
	prepare() error
	// tryScheduler returns an error if there is no such scheduler.
	tryScheduler(name string) error
	servers() (map[serverID]settings, error)
	addServer(id serverID, s settings) error
	setServer(id serverID, s settings) error
	deleteServer(id serverID) error
	destinations(id serverID) (map[netip.AddrPort]destination, error)
	addDestination(id serverID, d netip.AddrPort, weight int) error
	setDestination(id serverID, d netip.AddrPort, weight int) error
	deleteDestination(id serverID, d netip.AddrPort) error
	addresses() (bound, error)
	// bind makes an address one of this machine's, unbind the reverse.
	bind(a netip.Addr) error
	unbind(a netip.Addr) error
	// deleteLink removes the interface with all its routes.
	deleteLink() error
	close()
}

// system is the real kernel.
type system struct {
	netns  int // a descriptor of our own, or -1
	ipvs   *ipvs.Handle
	route  *netlink.Handle
	sysctl []sysctl
	config *ipvs.Config
	// As prepare found them.
	dummy   netlink.Link
	sources map[proxy.Family]net.IP
}

// sysctl is a setting below /proc/sys.
type sysctl struct {
	name, value string
	feature     string // what lacks where it is not there; empty: no matter
}

// openSystem opens the sockets in a network namespace; -1 is the process's own.
func openSystem(namespace int, o Options) (_ *system, err error) {
	s := &system{netns: -1, sysctl: sysctls(o), config: o.timeouts()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := loadModule(); err != nil {
		return nil, err
	}
	path := ""
	if namespace >= 0 {
		if s.netns, err = unix.FcntlInt(uintptr(namespace), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return nil, fmt.Errorf("ipvs: network namespace: %w", err)
		}
		path = "/proc/self/fd/" + strconv.Itoa(s.netns)
		s.route, err = netlink.NewHandleAt(netns.NsHandle(s.netns), unix.NETLINK_ROUTE)
	} else {
		s.route, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, fmt.Errorf("ipvs: netlink: %w", err)
	}
	if s.ipvs, err = ipvs.New(path); err != nil {
		return nil, fmt.Errorf("ipvs: netlink: %w", err)
	}
	return s, nil
}

// loadModule sees that the kernel has IPVS, and loads the module where it may:
// the kernel itself loads only the schedulers.
func loadModule() error {
	_, err := netlink.GenlFamilyGet("IPVS")
	if err == nil {
		return nil
	}
	if out, failed := exec.Command("modprobe", "ip_vs").CombinedOutput(); failed != nil {
		err = fmt.Errorf("%w (modprobe: %s)", err, strings.Join(append(strings.Fields(string(out)), failed.Error()), " "))
	} else if _, err = netlink.GenlFamilyGet("IPVS"); err == nil {
		return nil
	}
	return &proxy.UnsupportedError{Engine: "ipvs", Feature: "the kernel has no IPVS", Err: err,
		Remedy: "run \"modprobe ip_vs\", or use a kernel that is built with CONFIG_IP_VS and CONFIG_IP_VS_NFCT"}
}

func (s *system) close() {
	if s.ipvs != nil {
		s.ipvs.Close()
	}
	if s.route != nil {
		s.route.Close()
	}
	if s.netns >= 0 {
		_ = unix.Close(s.netns)
	}
}

func (s *system) prepare() error {
	if err := s.prepareLink(); err != nil {
		return err
	}
	err := nfnl.InNamespace(s.netns, func() error {
		for _, c := range s.sysctl {
			if err := c.set(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.config != nil {
		if err := s.ipvs.SetConfig(s.config); err != nil {
			return denied(fmt.Errorf("ipvs: set timeouts: %w", err))
		}
	}
	return nil
}

// set writes the setting unless it is so.
func (c sysctl) set() error {
	path := filepath.Join("/proc/sys", c.name)
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && c.feature == "":
		return nil
	case errors.Is(err, os.ErrNotExist):
		return &proxy.UnsupportedError{Engine: "ipvs", Feature: c.feature, Err: err, Remedy: "use a kernel that is built with CONFIG_IP_VS_NFCT"}
	case err == nil && strings.TrimSpace(string(old)) == c.value:
		return nil
	}
	if err := os.WriteFile(path, []byte(c.value), 0o600); err != nil {
		return denied(fmt.Errorf("ipvs: set %s to %s: %w", c.name, c.value, err))
	}
	return nil
}

// denied turns a refusal for lack of privilege into an error that says so.
func denied(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		return &proxy.UnsupportedError{Engine: "ipvs", Feature: "the kernel denies access to IPVS", Err: err,
			Remedy: "run as root, or with the capability CAP_NET_ADMIN in the network namespace and a writable /proc/sys"}
	}
	return err
}

// tryMark is that of a virtual server which is only made to try something.
const tryMark = 0xffffffff

func (s *system) tryScheduler(name string) error {
	id := serverID{family: proxy.IPv4, mark: tryMark}
	if err := s.addServer(id, settings{scheduler: name}); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return s.deleteServer(id)
}

// service returns the library's form of a server.
func (id serverID) service(s settings) *ipvs.Service {
	out := &ipvs.Service{FWMark: id.mark, SchedName: s.scheduler, Flags: s.flags, Timeout: s.timeout, AddressFamily: unix.AF_INET, Netmask: 0xffffffff}
	if id.family == proxy.IPv6 {
		out.AddressFamily, out.Netmask = unix.AF_INET6, 128
	}
	if id.mark == 0 {
		out.Protocol, out.Address, out.Port = uint16(id.protocol), id.addr.Addr().AsSlice(), id.addr.Port()
	}
	return out
}

func (s *system) servers() (map[serverID]settings, error) {
	list, err := s.ipvs.GetServices()
	if err != nil {
		return nil, denied(fmt.Errorf("ipvs: list virtual servers: %w", err))
	}
	out := make(map[serverID]settings, len(list))
	for _, v := range list {
		id := serverID{family: proxy.IPv4, mark: v.FWMark}
		if v.AddressFamily == unix.AF_INET6 {
			id.family = proxy.IPv6
		}
		if v.FWMark == 0 {
			a, _ := netip.AddrFromSlice(v.Address)
			id.protocol, id.addr = proxy.Protocol(v.Protocol), netip.AddrPortFrom(a, v.Port)
		}
		out[id] = settings{v.SchedName, v.Flags &^ flagHashed, v.Timeout}
	}
	return out, nil
}

func (s *system) addServer(id serverID, c settings) error {
	return s.did("add", id, s.ipvs.NewService(id.service(c)))
}

func (s *system) setServer(id serverID, c settings) error {
	return s.did("change", id, s.ipvs.UpdateService(id.service(c)))
}

func (s *system) deleteServer(id serverID) error {
	return s.did("delete", id, s.ipvs.DelService(id.service(settings{})))
}

func (s *system) did(what string, id serverID, err error) error {
	if err == nil {
		return nil
	}
	return denied(fmt.Errorf("ipvs: %s virtual server %s: %w", what, id, err))
}

func (s *system) destinations(id serverID) (map[netip.AddrPort]destination, error) {
	list, err := s.ipvs.GetDestinations(id.service(settings{}))
	if err != nil {
		return nil, s.did("list destinations of", id, err)
	}
	out := make(map[netip.AddrPort]destination, len(list))
	for _, d := range list {
		a, _ := netip.AddrFromSlice(d.Address)
		out[netip.AddrPortFrom(a, d.Port)] = destination{d.Weight, d.ActiveConnections + d.InactiveConnections, d.ActiveConnections}
	}
	return out, nil
}

func library(d netip.AddrPort, weight int) *ipvs.Destination {
	return &ipvs.Destination{Address: d.Addr().AsSlice(), Port: d.Port(), Weight: weight, ConnectionFlags: ipvs.ConnectionFlagMasq}
}

func (s *system) addDestination(id serverID, d netip.AddrPort, weight int) error {
	return s.did("add destination "+d.String()+" to", id, s.ipvs.NewDestination(id.service(settings{}), library(d, weight)))
}

func (s *system) setDestination(id serverID, d netip.AddrPort, weight int) error {
	return s.did("change destination "+d.String()+" of", id, s.ipvs.UpdateDestination(id.service(settings{}), library(d, weight)))
}

func (s *system) deleteDestination(id serverID, d netip.AddrPort) error {
	return s.did("delete destination "+d.String()+" of", id, s.ipvs.DelDestination(id.service(settings{}), library(d, 0)))
}

// timeouts returns what the options say of connections' timeouts, or nil.
func (o *Options) timeouts() *ipvs.Config {
	if o.TCPTimeout == 0 && o.TCPFinTimeout == 0 && o.UDPTimeout == 0 {
		return nil
	}
	round := func(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }
	return &ipvs.Config{TimeoutTCP: round(o.TCPTimeout), TimeoutTCPFin: round(o.TCPFinTimeout), TimeoutUDP: round(o.UDPTimeout)}
}
