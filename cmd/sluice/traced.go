package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/proxy"
)

// traced is the answer to what happens to a new connection: what the plan says,
// and what the kernel's own rules do.
type traced struct {
	Source      string           `json:"source"` // an address, or "node"
	Destination netip.AddrPort   `json:"destination"`
	Protocol    string           `json:"protocol"`
	Service     string           `json:"service,omitempty"`
	Frontend    string           `json:"frontend,omitempty"` // its kind, such as ClusterIP
	Action      string           `json:"action"`             // "pass" where no Service answers
	Refused     bool             `json:"refused,omitempty"`  // by loadBalancerSourceRanges
	Endpoints   []tracedEndpoint `json:"endpoints,omitempty"`
	// Explanation says all of that in words.
	Explanation string `json:"explanation"`

	Engine string `json:"engine"`
	// Rules are the kernel's lines that decide, and Differences where what they
	// do is not what the plan says. KernelError says why nothing was compared.
	Rules       []string `json:"rules,omitempty"`
	Differences []string `json:"differences,omitempty"`
	KernelError string   `json:"kernelError,omitempty"`
}

// tracedEndpoint is one that the connection may get.
type tracedEndpoint struct {
	Address     netip.AddrPort `json:"address"`
	Probability float64        `json:"probability"`
	Here        bool           `json:"here,omitempty"` // on this node
	Masquerade  bool           `json:"masquerade,omitempty"`
}

// protocols are those of a connection, by name.
var protocols = map[string]proxy.Protocol{"TCP": proxy.TCP, "UDP": proxy.UDP, "SCTP": proxy.SCTP}

// trace answers what happens to a new connection.
func trace(ctx context.Context, plan *proxy.Plan, name string, engine proxy.Engine, q url.Values) (any, error) {
	if plan == nil {
		return nil, errNotProgrammed
	}
	destination, err := netip.ParseAddrPort(q.Get("destination"))
	if err != nil {
		return nil, errors.New("destination: expected ADDRESS:PORT, found " + q.Get("destination"))
	}
	destination = netip.AddrPortFrom(destination.Addr().Unmap(), destination.Port())
	var source netip.Addr
	if s := q.Get("source"); s != "node" {
		if source, err = netip.ParseAddr(s); err != nil {
			return nil, errors.New(`source: expected an address or "node", found ` + s)
		}
		source = source.Unmap()
	}
	if source.IsValid() && source.Is4() != destination.Addr().Is4() {
		return nil, errors.New("source: expected an address of the family of " + destination.Addr().String() + ", found " + source.String())
	}
	protocol, ok := protocols[q.Get("protocol")]
	if !ok {
		return nil, errors.New("protocol: expected tcp, udp or sctp, found " + q.Get("protocol"))
	}
	decision := proxy.Trace(withOwnAddresses(plan), source, destination, protocol)
	out := describe(decision)
	out.Source, out.Engine = q.Get("source"), name
	tracer, ok := engine.(proxy.Tracer)
	if !ok {
		out.KernelError = "this engine cannot read its rules back"
		return out, nil
	}
	observed, err := tracer.Trace(ctx, decision)
	if err != nil {
		out.KernelError = err.Error()
		return out, nil
	}
	out.Rules, out.Differences = observed.Rules, decision.Compare(observed)
	return out, nil
}

// withOwnAddresses adds the addresses of this machine to a plan. Without a Node
// object the plan does not know them, which the kernel does.
func withOwnAddresses(plan *proxy.Plan) *proxy.Plan {
	here := *plan
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return plan
	}
	here.Node.Addrs = slices.Clone(here.Node.Addrs)
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			here.Node.Addrs = append(here.Node.Addrs, p.Addr())
		}
	}
	return &here
}

// describe says what a decision says.
func describe(d proxy.Decision) traced {
	out := traced{Destination: d.Destination, Protocol: strings.ToLower(d.Protocol.String()), Action: "pass", Refused: d.Refused, Explanation: d.String()}
	if d.Frontend != nil || d.Miss != proxy.NotOurs {
		out.Action = d.Action.String()
	}
	if d.Service.Name != "" {
		out.Service = d.Service.String()
	}
	if d.Frontend != nil {
		out.Frontend = d.Frontend.Kind.String()
	}
	for _, c := range d.Choices {
		out.Endpoints = append(out.Endpoints, tracedEndpoint{c.AddrPort, c.Probability, c.Place == proxy.Here, c.Masquerade})
	}
	return out
}
