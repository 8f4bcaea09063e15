package xds

import (
	"fmt"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/sluicenet/sluice/route"
)

// Proxy is a connected proxy.
type Proxy struct {
	Node      string        `json:"node"`
	Groups    []route.Group `json:"groups"`
	Version   string        `json:"version,omitempty"` // "envoy 1.40.0"
	Connected time.Time     `json:"connected"`
	Types     []ProxyType   `json:"types,omitempty"` // in the order of sending
}

// ProxyType counts a proxy's resources of a type.
type ProxyType struct {
	Type         string `json:"type"`         // "Cluster"
	Sent         int    `json:"sent"`         // acknowledged or on their way
	Acknowledged int    `json:"acknowledged"` // of the newest version
	Rejected     int    `json:"rejected"`     // at their last good version, or missing
	Held         int    `json:"held"`         // held back for want of what they need
	Rejections   int    `json:"rejections"`   // responses refused since it connected
	LastError    string `json:"lastError,omitempty"`
}

// Proxies returns the connected proxies, by node.
func (s *Server) Proxies() []Proxy {
	clients := s.delta.Clients()
	out := make([]Proxy, len(clients))
	for i, c := range clients {
		p := Proxy{Node: c.Node.GetId(), Version: version(c.Node), Connected: c.Since}
		for _, g := range c.Groups {
			p.Groups = append(p.Groups, route.Group(g))
		}
		for _, t := range c.Types {
			p.Types = append(p.Types, ProxyType{
				Type: typeName(t.TypeURL), Sent: t.Sent, Acknowledged: t.Acknowledged,
				Rejected: t.Rejected, Held: t.Held, Rejections: t.Rejections, LastError: t.LastError,
			})
		}
		out[i] = p
	}
	return out
}

func version(n *core.Node) string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		return n.GetUserAgentName()
	}
	return fmt.Sprintf("%s %d.%d.%d", n.GetUserAgentName(), v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}
