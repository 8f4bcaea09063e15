package hostile

import (
	"fmt"
	"strings"
)

// services are mistakes in Services.
func services(w *world) []input {
	good := func(spec string) map[string]string {
		return map[string]string{"x.yaml": object("Service", "x", spec), "x-slice.yaml": w.slice("x", "tcp", 9000)}
	}
	const fine = `{clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000}]}`
	x := func(spec string) map[string]string { return one(object("Service", "x", spec)) }
	inForce := all(serves("10.96.0.50:9000"), answers("x.default.svc.cluster.local", "10.96.0.50"))
	return []input{
		{
			name: "a Service without ports", good: good(fine), bad: x(`{clusterIP: 10.96.0.50}`), holds: inForce,
			says: []string{"Service default/x … source … x.yaml:5: … spec.ports: is missing, must be a list of at least one port"},
		},
		{
			name: "port 0", good: good(fine), bad: x(`{clusterIP: 10.96.0.50, ports: [{name: tcp, port: 0}]}`), holds: inForce,
			says: []string{"Service default/x … x.yaml:5: … spec.ports[0].port: must be a number from 1 to 65535, found 0"},
		},
		{
			name: "port 70000", good: good(fine), bad: x(`{clusterIP: 10.96.0.50, ports: [{name: tcp, port: 70000}]}`), holds: inForce,
			says: []string{"Service default/x … spec.ports[0].port: must be a number from 1 to 65535, found 70000"},
		},
		{
			name: "a port that is a word", good: good(fine), bad: x(`{clusterIP: 10.96.0.50, ports: [{name: tcp, port: http}]}`), holds: inForce,
			says: []string{`Service default/x … spec.ports[0].port: must be of type integer, found "http"`},
		},
		{
			name: "an unknown protocol", good: good(fine), bad: x(`{clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000, protocol: ICMP}]}`), holds: inForce,
			says: []string{`Service default/x … spec.ports[0].protocol: must be TCP, UDP or SCTP, found "ICMP"`},
		},
		{
			name: "an unknown field", good: good(fine), bad: x(`{clusterIP: 10.96.0.50, prots: [{name: tcp, port: 9000}]}`), holds: inForce,
			says: []string{`Service default/x … spec.prots: unknown field`},
		},
		{
			name:  "a NodePort that another Service has",
			good:  good(`{type: NodePort, clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000, nodePort: 30200}]}`),
			bad:   x(`{type: NodePort, clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000, nodePort: 30100}]}`),
			holds: all(inForce, serves(w.node.IPv4().String()+":30200")),
			says:  []string{"Service default/x … x.yaml … spec.ports[0].nodePort: the nodePort 30100/TCP belongs to Service default/base; this Service keeps nodePort 30200/TCP"},
		},
		{
			name: "a new Service with a NodePort that another has",
			bad:  good(`{type: NodePort, clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000, nodePort: 30100}]}`), holds: inForce,
			says: []string{"Service default/x … x.yaml … spec.ports[0].nodePort: the nodePort 30100/TCP belongs to Service default/base"},
		},
		{
			name: "a NodePort out of range", good: good(fine),
			bad:   x(`{type: NodePort, clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000, nodePort: 22}]}`),
			holds: inForce,
			says:  []string{"Service default/x … spec.ports[0].nodePort: … 30000 to 32767, found 22"},
		},
		{
			name: "a ClusterIP that another Service has", good: good(fine), bad: x(`{clusterIP: ` + baseVIP + `, ports: [{name: tcp, port: 9000}]}`),
			holds: inForce,
			says:  []string{"Service default/x … x.yaml … spec.clusterIPs[0]: the clusterIP " + baseVIP + " belongs to Service default/base"},
		},
		{
			name: "a new Service with a ClusterIP that another has", bad: good(`{clusterIP: ` + baseVIP + `, ports: [{name: tcp, port: 9000}]}`),
			says: []string{"Service default/x … x.yaml … spec.clusterIPs[0]: the clusterIP " + baseVIP + " belongs to Service default/base"},
		},
		{
			name: "a ClusterIP outside of the ranges", good: good(fine), bad: x(`{clusterIP: 192.0.2.7, ports: [{name: tcp, port: 9000}]}`), holds: inForce,
			says: []string{"Service default/x … x.yaml:2: … spec.clusterIPs[0]: must be in 10.96.0.0/12 or fd00:10:96::/112 (proxy.serviceCIDRs), found 192.0.2.7"},
		},
		{
			name: "a ClusterIP of the node", good: good(fine), bad: x(`{clusterIP: ` + w.node.IPv4().String() + `, ports: [{name: tcp, port: 53}]}`), holds: inForce,
			says: []string{"Service default/x … spec.clusterIPs[0]: must be in 10.96.0.0/12"},
		},
		{
			name: "a ClusterIP of the wrong family", good: good(fine),
			bad: x(`{clusterIP: "fd00:10:96::50", ipFamilies: [IPv4], ports: [{name: tcp, port: 9000}]}`), holds: inForce,
			says: []string{"Service default/x … spec.ipFamilies[0]: must be the family of the clusterIP fd00:10:96::50"},
		},
		{
			name: "a ClusterIP that is none", good: good(fine), bad: x(`{clusterIP: 10.96.0.256, ports: [{name: tcp, port: 9000}]}`), holds: inForce,
			says: []string{`Service default/x … spec.clusterIP: must be an IP address, found "10.96.0.256"`},
		},
		{
			name: "an external IP of the machine itself", good: good(fine),
			bad: x(`{clusterIP: 10.96.0.50, externalIPs: [127.0.0.1], ports: [{name: tcp, port: 9000}]}`), holds: inForce,
			says: []string{`Service default/x … spec.externalIPs: must … found "127.0.0.1"`},
		},
		{
			name: "2,000 ports",
			bad: x(`{clusterIP: 10.96.0.50, ports: [` + repeat(2000, ", ", func(i int) string {
				return fmt.Sprintf("{name: p%d, port: %d, targetPort: 9000}", i, i+1)
			}) + `]}`),
		},
		{
			name: "2,000 ports of one name", good: good(fine),
			bad: x(`{clusterIP: 10.96.0.50, ports: [` + repeat(2000, ", ", func(i int) string {
				return fmt.Sprintf("{name: p, port: %d}", i+1)
			}) + `]}`), holds: inForce,
			says: []string{`Service default/x … spec.ports[1].name: must be a name that no other port has, found "p"`},
		},
		{
			name: "a long name", bad: one(object("Service", strings.Repeat("x", 300), fine)),
			says: []string{`x.yaml:4 … metadata.name: must be a DNS label`},
		},
		{
			name: "a name that is a path", bad: one(object("Service", "../../etc/passwd", fine)),
			says: []string{`x.yaml:4 … metadata.name: must be a DNS label: lower case letters, digits and '-', found "../../etc/passwd"`},
		},
		{
			name: "a name with control characters", bad: one(object("Service", "x\x1b[31m", fine)),
			says: []string{`x.yaml:4 … metadata.name: must be a DNS label: lower case letters, digits and '-', found "x\x1b[31m"`},
		},
	}
}

// endpoints are mistakes in EndpointSlices.
func endpoints(w *world) []input {
	good := map[string]string{
		"x.yaml":       object("Service", "x", `{clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000}]}`),
		"x-slice.yaml": w.slice("x", "tcp", 9000),
	}
	x := func(rest string) map[string]string {
		return map[string]string{"x-slice.yaml": endpointSlice("x", "x", rest)}
	}
	inForce := serves("10.96.0.50:9000")
	address := func(family, ip string) map[string]string {
		return x(fmt.Sprintf("addressType: %s\nports: [{name: tcp, port: 9000}]\nendpoints: [{addresses: [%q]}]\n", family, ip))
	}
	return []input{
		{
			name: "an endpoint that is no address", good: good, bad: address("IPv4", "one.two"), holds: inForce,
			says: []string{`EndpointSlice default/x … x-slice.yaml:7: … endpoints[0].addresses[0]: must be an IPv4 address … found "one.two"`},
		},
		{
			name: "an endpoint of the wrong family", good: good, bad: address("IPv4", "fd00::1"), holds: inForce,
			says: []string{`EndpointSlice default/x … endpoints[0].addresses[0]: must be an IPv4 address … found "fd00::1"`},
		},
		{
			name: "an endpoint on the loopback", good: good, bad: address("IPv4", "127.0.0.1"), holds: inForce,
			says: []string{`EndpointSlice default/x … endpoints[0].addresses[0]: must be … that is not loopback, link-local, multicast or unspecified, found "127.0.0.1"`},
		},
		{
			name: "an endpoint on the link", good: good, bad: address("IPv4", "169.254.169.254"), holds: inForce,
			says: []string{`EndpointSlice default/x … endpoints[0].addresses[0]: must be … found "169.254.169.254"`},
		},
		{
			name: "an endpoint of all", good: good, bad: address("IPv4", "0.0.0.0"), holds: inForce,
			says: []string{`EndpointSlice default/x … endpoints[0].addresses[0]: must be … found "0.0.0.0"`},
		},
		{
			name: "a multicast endpoint", good: good, bad: address("IPv6", "ff02::1"), holds: inForce,
			says: []string{`EndpointSlice default/x … endpoints[0].addresses[0]: must be … found "ff02::1"`},
		},
		{
			name: "an endpoint with a zone", good: good, bad: address("IPv6", "fe80::1%eth0"), holds: inForce,
			says: []string{`EndpointSlice default/x … endpoints[0].addresses[0]: must be … found "fe80::1%eth0"`},
		},
		{
			name: "an unknown addressType", good: good, bad: address("IPv5", "10.0.0.1"), holds: inForce,
			says: []string{`EndpointSlice default/x … addressType: must be IPv4 or IPv6, found "IPv5"`},
		},
		{
			name: "an EndpointSlice's port 99999", good: good, holds: inForce,
			bad:  x("addressType: IPv4\nports: [{name: tcp, port: 99999}]\nendpoints: [{addresses: [10.0.0.1]}]\n"),
			says: []string{`EndpointSlice default/x … ports[0].port: must be a number from 1 to 65535, found 99999`},
		},
		{
			name: "endpoints that are a mapping", good: good, holds: inForce,
			bad:  x("addressType: IPv4\nports: [{name: tcp, port: 9000}]\nendpoints: {addresses: [10.0.0.1]}\n"),
			says: []string{`EndpointSlice default/x … endpoints: must be of type list, found object`},
		},
	}
}
