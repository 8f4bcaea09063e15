package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Proxy is the service proxy of this node.
type Proxy struct {
	Mode              string         `json:"mode,omitempty" usage:"engine: nftables, iptables or ipvs; auto for the best that this machine has, none to leave Services to somebody else"`
	ProxyName         string         `json:"proxyName,omitempty" flag:"proxy-name" usage:"serve the Services with this value of the label service.kubernetes.io/service-proxy-name (default: those without it)"`
	ServiceCIDRs      []netip.Prefix `json:"serviceCIDRs,omitempty" usage:"ranges of ClusterIPs; in a directory of manifests addresses are allocated from them"`
	ClusterCIDRs      []netip.Prefix `json:"clusterCIDRs,omitempty" usage:"ranges of Pod addresses; what comes from elsewhere to a ClusterIP is masqueraded"`
	NodePortAddresses []string       `json:"nodePortAddresses,omitempty" usage:"local addresses that answer NodePorts: ranges, or the words all, primary (the Node's first), localhost and none (default: all, and localhost too in mode iptables, as kube-proxy)"`
	// LocalhostNodePorts is kube-proxy's switch of its mode iptables, if its flag is
	// given; see [Configuration.Complete].
	LocalhostNodePorts *bool  `json:"-" flag:"-"`
	MasqueradeMark     uint32 `json:"masqueradeMark,omitempty" usage:"packet mark bit of what is to be masqueraded"`
	MasqueradeAll      bool   `json:"masqueradeAll,omitempty" usage:"masquerade everything that goes to a Service"`
	Healthz            string `json:"healthz,omitempty" usage:"address of /healthz and /livez for load balancers, as kube-proxy's; empty: none"`
	HealthzHardFail    bool   `json:"healthzHardFail,omitempty" usage:"end if another process has the address of proxy.healthz or metrics, instead of trying again until it has not"`
	Traffic            bool   `json:"traffic" usage:"serve metrics of the connections of each Service, and of its packets and bytes where these are counted"`
	TrafficBytes       bool   `json:"trafficBytes,omitempty" usage:"count the packets and bytes of each Service, too, where nftables is the engine; each packet then costs a look-up (ipvs always counts them, iptables never)"`
	OOMScoreAdj        int32  `json:"oomScoreAdj,omitempty" usage:"oom_score_adj of this process; 0: leave it"`

	DetectLocal DetectLocal `json:"detectLocal,omitzero"`
	IPTables    IPTables    `json:"iptables,omitzero"`
	IPVS        IPVS        `json:"ipvs,omitzero"`
	Conntrack   Conntrack   `json:"conntrack,omitzero"`
}

// DetectLocal says how connections of Pods are told from others.
type DetectLocal struct {
	Mode                string `json:"mode,omitempty" usage:"how Pods' connections are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix (default: ClusterCIDR where one is given, else NodeCIDR)"`
	BridgeInterface     string `json:"bridgeInterface,omitempty" usage:"bridge that the Pods are at, for detect-local mode BridgeInterface"`
	InterfaceNamePrefix string `json:"interfaceNamePrefix,omitempty" usage:"beginning of the names of the Pods' interfaces, for detect-local mode InterfaceNamePrefix"`
}

// IPTables is the engine of that name.
type IPTables struct {
	Variant string `json:"variant,omitempty" usage:"which iptables programs the kernel: nft, legacy, or auto for the one that has rules already"`
}

// IPVS is the engine of that name.
type IPVS struct {
	Scheduler     string          `json:"scheduler,omitempty" usage:"scheduler of Services that ask for none"`
	ExcludeCIDRs  []netip.Prefix  `json:"excludeCIDRs,omitempty" usage:"ranges of virtual servers that are somebody else's and stay"`
	StrictARP     bool            `json:"strictARP,omitempty" usage:"answer ARP for addresses of the interface that is asked alone (arp_ignore 1, arp_announce 2)"`
	DrainTimeout  metav1.Duration `json:"drainTimeout,omitzero" usage:"how long an endpoint that is gone keeps its open connections"`
	TCPTimeout    metav1.Duration `json:"tcpTimeout,omitzero" usage:"timeout of idle TCP connections; 0: leave it"`
	TCPFinTimeout metav1.Duration `json:"tcpFinTimeout,omitzero" usage:"timeout of TCP connections after a FIN; 0: leave it"`
	UDPTimeout    metav1.Duration `json:"udpTimeout,omitzero" usage:"timeout of idle UDP flows; 0: leave it"`
}

// Conntrack is the kernel's memory of connections, as KubeProxyConfiguration
// names it.
type Conntrack struct {
	MaxPerCore            int32           `json:"maxPerCore,omitempty" usage:"connections that are remembered for each CPU core; 0: leave the limit"`
	Min                   int32           `json:"min,omitempty" usage:"connections that are remembered at least, whatever the cores; not looked at where maxPerCore is 0"`
	TCPEstablishedTimeout metav1.Duration `json:"tcpEstablishedTimeout,omitzero" usage:"timeout of idle TCP connections; 0: leave it"`
	TCPCloseWaitTimeout   metav1.Duration `json:"tcpCloseWaitTimeout,omitzero" usage:"timeout of TCP connections that one side has closed; 0: leave it"`
	TCPBeLiberal          bool            `json:"tcpBeLiberal,omitempty" usage:"track TCP packets outside of the window, instead of taking them for invalid"`
	UDPTimeout            metav1.Duration `json:"udpTimeout,omitzero" usage:"timeout of UDP flows without answers; 0: leave it"`
	UDPStreamTimeout      metav1.Duration `json:"udpStreamTimeout,omitzero" usage:"timeout of UDP flows with answers; 0: leave it"`
}

// defaultProxy leaves the machine's own settings alone.
func defaultProxy() Proxy {
	return Proxy{
		Mode:           "auto",
		ServiceCIDRs:   []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")},
		MasqueradeMark: 1 << 14,
		Traffic:        true,
		IPTables:       IPTables{Variant: "auto"},
		IPVS:           IPVS{Scheduler: "rr", DrainTimeout: metav1.Duration{Duration: 15 * time.Minute}},
	}
}

// ForNode sets what a node of a cluster has besides, by kube-proxy's defaults:
// the health check of load balancers, room for connections, and a process that
// is not the first to go when memory is short.
func (p *Proxy) ForNode() {
	p.Healthz = ":10256"
	p.OOMScoreAdj = -999
	p.Conntrack = Conntrack{
		MaxPerCore: 32 << 10, Min: 128 << 10,
		TCPEstablishedTimeout: metav1.Duration{Duration: 24 * time.Hour}, TCPCloseWaitTimeout: metav1.Duration{Duration: time.Hour},
	}
}

// modes are the values of proxy.mode.
var modes = []string{"auto", "nftables", "iptables", "ipvs", "none"}

// schedulers are those of IPVS.
var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"}

// ValidScheduler checks the name of a scheduler of IPVS.
func ValidScheduler(name string) error {
	if !slices.Contains(schedulers, name) {
		return fmt.Errorf("expected one of %q, found %q", schedulers, name)
	}
	return nil
}

// Validate checks what a type cannot say; see [Configuration.Validate].
func (p *Proxy) Validate() error {
	errs := []error{
		oneOf("proxy.mode", p.Mode, modes...),
		address("proxy.healthz", p.Healthz),
		oneOf("proxy.iptables.variant", p.IPTables.Variant, "auto", "nft", "legacy"),
		oneOf("proxy.detectLocal.mode", p.DetectLocal.Mode, "", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"),
		oneOf("proxy.ipvs.scheduler", p.IPVS.Scheduler, schedulers...),
		oneBit("proxy.masqueradeMark", p.MasqueradeMark),
		within("proxy.oomScoreAdj", int64(p.OOMScoreAdj), -1000, 1000),
		within("proxy.conntrack.maxPerCore", int64(p.Conntrack.MaxPerCore), 0, 1<<31-1),
		within("proxy.conntrack.min", int64(p.Conntrack.Min), 0, 1<<31-1),
		needed("proxy.detectLocal.bridgeInterface", p.DetectLocal.BridgeInterface, p.DetectLocal.Mode, "BridgeInterface"),
		needed("proxy.detectLocal.interfaceNamePrefix", p.DetectLocal.InterfaceNamePrefix, p.DetectLocal.Mode, "InterfaceNamePrefix"),
		interfaceName("proxy.detectLocal.bridgeInterface", p.DetectLocal.BridgeInterface),
		interfaceName("proxy.detectLocal.interfaceNamePrefix", p.DetectLocal.InterfaceNamePrefix),
		perFamily("proxy.serviceCIDRs", p.ServiceCIDRs),
	}
	for i, a := range p.NodePortAddresses {
		if _, err := netip.ParsePrefix(a); err != nil && !slices.Contains([]string{"all", "primary", "localhost", "none"}, a) {
			errs = append(errs, fmt.Errorf("proxy.nodePortAddresses[%d]: expected a range such as 10.0.0.0/8, or one of the words all, primary, localhost and none, found %q", i, a))
		}
	}
	for field, d := range map[string]metav1.Duration{
		"ipvs.drainTimeout": p.IPVS.DrainTimeout, "ipvs.tcpTimeout": p.IPVS.TCPTimeout, "ipvs.tcpFinTimeout": p.IPVS.TCPFinTimeout,
		"ipvs.udpTimeout": p.IPVS.UDPTimeout, "conntrack.tcpEstablishedTimeout": p.Conntrack.TCPEstablishedTimeout,
		"conntrack.tcpCloseWaitTimeout": p.Conntrack.TCPCloseWaitTimeout, "conntrack.udpTimeout": p.Conntrack.UDPTimeout,
		"conntrack.udpStreamTimeout": p.Conntrack.UDPStreamTimeout,
	} {
		errs = append(errs, seconds("proxy."+field, d.Duration))
	}
	return errors.Join(errs...)
}

func oneBit(field string, mark uint32) error {
	if mark == 0 || mark&(mark-1) != 0 {
		return fmt.Errorf("%s: expected a number of one bit such as 0x4000, found %#x", field, mark)
	}
	return nil
}

func within(field string, n, least, most int64) error {
	if n < least || n > most {
		return fmt.Errorf("%s: expected a number from %d to %d, found %d", field, least, most, n)
	}
	return nil
}

// seconds checks a time that the kernel keeps in whole seconds.
func seconds(field string, d time.Duration) error {
	if d < 0 || d%time.Second != 0 {
		return fmt.Errorf("%s: expected whole seconds, or 0, found %v", field, d)
	}
	return nil
}

func needed(field, value, mode, by string) error {
	if mode == by && value == "" {
		return fmt.Errorf("%s: is missing, which proxy.detectLocal.mode %s needs", field, by)
	}
	return nil
}

// interfaceName checks the name of an interface or the beginning of one. The
// kernel takes at most 15 bytes.
func interfaceName(field, name string) error {
	if len(name) > 15 || strings.ContainsAny(name, " /:*\t\n\"") {
		return fmt.Errorf("%s: expected an interface's name of at most 15 characters, found %q", field, name)
	}
	return nil
}

func perFamily(field string, cidrs []netip.Prefix) error {
	if len(cidrs) > 2 || len(cidrs) == 2 && cidrs[0].Addr().Is4() == cidrs[1].Addr().Is4() {
		return fmt.Errorf("%s: expected at most one range of each family, found %v", field, cidrs)
	}
	return nil
}
