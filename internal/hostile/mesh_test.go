package hostile

import (
	"context"
	"fmt"
)

// meshes are mistakes in the objects of the mesh. A good version splits the
// connections of the Service x in the kernel.
func meshes(w *world) []input {
	good := map[string]string{
		"services.yaml": object("Service", "x", `{clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000}]}`) +
			object("Service", "yy", `{clusterIP: 10.96.0.51, ports: [{name: tcp, port: 9000}]}`) +
			w.slice("x", "tcp", 9000) + w.slice("yy", "tcp", 9000),
		"x.yaml": virtualService("x", `tcp: [{route: [{destination: {host: x}, weight: 90}, {destination: {host: yy}, weight: 10}]}]`),
	}
	bad := func(rest string) map[string]string { return one(virtualService("x", rest)) }
	inForce := func(ctx context.Context, w *world) error {
		table, err := w.admin.Table(ctx, "splits")
		if err != nil {
			return err
		}
		if len(table.Rows) != 1 {
			return fmt.Errorf("%d splits", len(table.Rows))
		}
		return serves("10.96.0.50:9000")(ctx, w)
	}
	peer := func(name, spec string) string { return object("PeerAuthentication", name, spec) }
	return []input{
		{
			name: "weights that are all 0", good: good, holds: inForce,
			bad:  bad(`tcp: [{route: [{destination: {host: x}, weight: 0}, {destination: {host: yy}, weight: 0}]}]`),
			says: []string{"VirtualService default/x … tcp[0].route: expected weights with a sum above 0; the version before stays in force"},
		},
		{
			name: "weights with a sum of 120", good: good, holds: inForce, // shares of their sum
			bad: bad(`tcp: [{route: [{destination: {host: x}, weight: 90}, {destination: {host: yy}, weight: 30}]}]`),
		},
		{
			name: "a negative weight", good: good, holds: inForce,
			bad:  bad(`tcp: [{route: [{destination: {host: x}, weight: -1}, {destination: {host: yy}, weight: 30}]}]`),
			says: []string{"VirtualService default/x … x.yaml:5: … spec.tcp[0].route[0].weight: must be a number from 0, found -1"},
		},
		{
			name: "a subset that is missing", good: good,
			bad:  bad(`tcp: [{route: [{destination: {host: x, subset: v9}}]}]`),
			says: []string{"VirtualService default/x … ResolvedRefs=False … v9"},
		},
		{
			name: "an unknown field", good: good, holds: inForce, bad: bad(`tcp: [{rout: [{destination: {host: x}}]}]`),
			says: []string{`VirtualService default/x … x.yaml:5: … spec.tcp[0].rout: unknown field`},
		},
		{
			name: "a field of the wrong type", good: good, holds: inForce, bad: bad(`tcp: [{route: [{destination: {host: [x]}}]}]`),
			says: []string{`VirtualService default/x … x.yaml:5: … spec.tcp[0].route[0].destination.host`},
		},
		{
			name: "a bad regular expression", good: good, holds: inForce,
			bad:  bad(`http: [{match: [{uri: {regex: "/a(b"}}], route: [{destination: {host: x}}]}], tcp: [{route: [{destination: {host: yy}}]}]`),
			says: []string{`VirtualService default/x … http[0].match[0].uri … /a(b`},
		},
		{
			name: "a route to a host that is nobody's", good: good, bad: bad(`tcp: [{route: [{destination: {host: nobody}}]}]`),
			says: []string{"VirtualService default/x … ResolvedRefs=False … nobody"},
		},
		{
			name: "hosts that are nobody's", bad: one(object("VirtualService", "x", `{hosts: [nobody], http: [{route: [{destination: {host: base}}]}]}`)),
			says: []string{"VirtualService default/x … nobody"},
		},
		{
			name: "a host with two wildcards", good: good, holds: inForce,
			bad:  one(object("VirtualService", "x", `{hosts: ["*.*.x"], tcp: [{route: [{destination: {host: x}}]}]}`)),
			says: []string{`VirtualService default/x … hosts: expected a host name, *.name or *, found "*.*.x"; the version before stays in force`},
		},
		{
			name: "two VirtualServices of one host", good: good, holds: inForce,
			bad:  map[string]string{"z.yaml": virtualService("z", `tcp: [{route: [{destination: {host: yy}}]}]`)},
			says: []string{`VirtualService default/z … Accepted=False (Conflict) … host "x.default.svc.cluster.local" belongs to the older VirtualService default/x`},
		},
		{
			name: "two subsets of one name",
			bad:  one(object("DestinationRule", "x", `{host: base, subsets: [{name: v1, labels: {a: b}}, {name: v1, labels: {a: c}}]}`)),
			says: []string{`DestinationRule default/x … spec.subsets[1].name: must be a name that no other subset of the rule has, found "v1"`},
		},
		{
			name: "a DestinationRule of nobody", bad: one(object("DestinationRule", "x", `{host: nobody, subsets: [{name: v1, labels: {a: b}}]}`)),
			says: nil, // the Service may come later
		},
		{
			name: "two PeerAuthentications of one namespace", bad: one(peer("x", `{mtls: {mode: STRICT}}`) + peer("y2", `{mtls: {mode: DISABLE}}`)),
			says: []string{"PeerAuthentication default/y2 … Accepted=False (Conflict) … the older PeerAuthentication default/x stands in its place"},
		},
		{
			name: "an unknown mode", bad: one(peer("x", `{mtls: {mode: SOMETIMES}}`)),
			says: []string{`PeerAuthentication default/x … x.yaml:5: … spec.mtls.mode … SOMETIMES`},
		},
		{
			name: "a port of mTLS that is none", bad: one(peer("x", `{selector: {matchLabels: {a: b}}, portLevelMtls: {70000: {mode: STRICT}}}`)),
			says: []string{`PeerAuthentication default/x … spec.portLevelMtls[70000]: must be a number from 1 to 65535`},
		},
		{
			name: "ports of mTLS without a selector", bad: one(peer("x", `{portLevelMtls: {8080: {mode: STRICT}}}`)),
			says: []string{`PeerAuthentication default/x … portLevelMtls[8080] (needs a selector)`},
		},
	}
}

func virtualService(name, rest string) string {
	return object("VirtualService", name, `{hosts: [x], `+rest+`}`)
}
