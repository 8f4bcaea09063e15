package mesh

import (
	"fmt"
	"time"

	networking "istio.io/api/networking/v1"
	istionetworking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/sluicenet/sluice/model"
)

// tlsMode is how clients talk to the endpoints of a Service.
type tlsMode uint8

const (
	tlsAuto   tlsMode = iota // mutual TLS to the endpoints whose sidecars take it
	tlsNone                  // DISABLE: plaintext to all
	tlsMutual                // ISTIO_MUTUAL: mutual TLS to all
)

// destinationRule is a DestinationRule read once.
type destinationRule struct {
	key        model.Key
	generation int64
	created    time.Time
	service    model.Name
	tls        tlsMode
	subsets    []subset
	ignored    []string
}

type subset struct {
	name   string
	labels map[string]string
	tls    tlsMode
}

func (d *destinationRule) subset(name string) (subset, bool) {
	if d != nil {
		for _, s := range d.subsets {
			if s.name == name {
				return s, true
			}
		}
	}
	return subset{}, false
}

// readDestinationRule reads a DestinationRule, or says why it cannot be in
// force.
func readDestinationRule(dr *istionetworking.DestinationRule, domain string) (*destinationRule, *refusal) {
	out := &destinationRule{
		key:        model.DestinationRules.Key(dr),
		generation: dr.Generation,
		created:    dr.CreationTimestamp.Time,
	}
	spec := &dr.Spec
	var ok bool
	if out.service, ok = serviceOf(spec.Host, dr.Namespace, domain); !ok {
		return nil, unsupported("host %q: expected the name of a Service", spec.Host)
	}
	for _, e := range spec.ExportTo {
		if e != "*" {
			return nil, unsupported("exportTo %q: rules hold in all namespaces", e)
		}
	}
	if spec.WorkloadSelector != nil {
		return nil, unsupported("workloadSelector")
	}
	var bad *refusal
	if out.tls, bad = out.policy("trafficPolicy", spec.TrafficPolicy, tlsAuto); bad != nil {
		return nil, bad
	}
	for i, s := range spec.Subsets {
		at := fmt.Sprintf("subsets[%d]", i)
		if s.Name == "" {
			return nil, invalid("%s.name: expected a name", at)
		}
		if _, dup := out.subset(s.Name); dup {
			return nil, invalid("%s.name: %q is there twice", at, s.Name)
		}
		sub := subset{name: s.Name, labels: s.Labels}
		if sub.tls, bad = out.policy(at+".trafficPolicy", s.TrafficPolicy, out.tls); bad != nil {
			return nil, bad
		}
		out.subsets = append(out.subsets, sub)
	}
	return out, nil
}

// policy reads what is supported of a trafficPolicy and names the rest.
func (d *destinationRule) policy(at string, p *networking.TrafficPolicy, inherited tlsMode) (tlsMode, *refusal) {
	if p == nil {
		return inherited, nil
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"loadBalancer", p.LoadBalancer != nil}, {"connectionPool", p.ConnectionPool != nil},
		{"outlierDetection", p.OutlierDetection != nil}, {"tunnel", p.Tunnel != nil},
		{"proxyProtocol", p.ProxyProtocol != nil}, {"retryBudget", p.RetryBudget != nil},
	} {
		if f.set {
			d.ignored = append(d.ignored, at+"."+f.name)
		}
	}
	for i, pl := range p.PortLevelSettings {
		if pl.Tls != nil {
			return 0, unsupported("%s.portLevelSettings[%d].tls", at, i)
		}
		d.ignored = append(d.ignored, fmt.Sprintf("%s.portLevelSettings[%d]", at, i))
	}
	if p.Tls == nil {
		return inherited, nil
	}
	switch p.Tls.Mode {
	case networking.ClientTLSSettings_DISABLE:
		return tlsNone, nil
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		return tlsMutual, nil
	}
	return 0, unsupported("%s.tls.mode %v: expected DISABLE or ISTIO_MUTUAL", at, p.Tls.Mode)
}
