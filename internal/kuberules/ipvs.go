package kuberules

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is the interface that has the addresses of kube-proxy's virtual
// servers.
const device = "kube-ipvs0"

// The node ports of a cluster that is not configured otherwise. Kube-proxy has
// virtual servers for them on the machine's own addresses, where keepalived may
// have others.
const firstNodePort, lastNodePort = 30000, 32767

// findServers finds kube-proxy's virtual servers and the interface that has
// their addresses. Without that interface no virtual server is kube-proxy's.
func findServers(context.Context) ([]Leftover, error) {
	link, err := netlink.LinkByName(device)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", device, err)
	}
	servers, err := kubeProxyServers(link)
	if err != nil {
		return nil, err
	}
	var out []Leftover
	if len(servers) > 0 {
		out = append(out, Leftover{fmt.Sprintf("%d virtual servers of IPVS", len(servers)), func(context.Context) error {
			return deleteServers(servers)
		}})
	}
	return append(out, Leftover{"interface " + device, func(context.Context) error { return netlink.LinkDel(link) }}), nil
}

func kubeProxyServers(link netlink.Link) ([]*ipvs.Service, error) {
	handle, err := ipvs.New("")
	if err != nil {
		return nil, nil //nolint:nilerr // without the module there are no virtual servers
	}
	defer handle.Close()
	servers, err := handle.GetServices()
	if err != nil {
		return nil, fmt.Errorf("list the virtual servers of IPVS: %w", err)
	}
	onDevice, err := addresses(link)
	if err != nil {
		return nil, err
	}
	local, err := addresses(nil)
	if err != nil {
		return nil, err
	}
	var out []*ipvs.Service
	for _, s := range servers {
		at := s.Address.String()
		nodePort := s.Port >= firstNodePort && s.Port <= lastNodePort && local[at]
		if s.FWMark == 0 && (onDevice[at] || nodePort) {
			out = append(out, s)
		}
	}
	return out, nil
}

// addresses returns those of an interface; nil: of all.
func addresses(link netlink.Link) (map[string]bool, error) {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := map[string]bool{}
	for _, a := range list {
		out[a.IP.String()] = true
	}
	return out, nil
}

func deleteServers(servers []*ipvs.Service) error {
	handle, err := ipvs.New("")
	if err != nil {
		return err
	}
	defer handle.Close()
	var errs []error
	for _, s := range servers {
		if err := handle.DelService(s); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("virtual server %s port %d: %w", s.Address, s.Port, err))
		}
	}
	return errors.Join(errs...)
}

// findSets finds the IP sets of kube-proxy's IPVS mode. They can only go when
// no rule uses them any more.
func findSets(context.Context) ([]Leftover, error) {
	sets, err := netlink.IpsetListAll()
	if err != nil {
		return nil, nil //nolint:nilerr // without the module there are no sets
	}
	var names []string
	for _, s := range sets {
		if strings.HasPrefix(s.SetName, "KUBE-") {
			names = append(names, s.SetName)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return []Leftover{{fmt.Sprintf("%d IP sets KUBE-*", len(names)), func(context.Context) error {
		var errs []error
		for _, n := range names {
			if err := netlink.IpsetDestroy(n); err != nil {
				errs = append(errs, fmt.Errorf("IP set %s: %w", n, err))
			}
		}
		return errors.Join(errs...)
	}}}, nil
}
