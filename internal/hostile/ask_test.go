package hostile

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// TestAsk proves that people can read what the program answers, and that it
// says what it expected where they ask for what is not there.
func TestAsk(t *testing.T) {
	w := newWorld(t)
	for name, text := range w.base(t) {
		w.write(t, name, text)
	}
	w.write(t, "shop.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: shop, namespace: shop}\nspec: {ports: [{port: 0}]}\n")
	w.write(t, "pod.yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: pod0, namespace: default}\nspec: {nodeName: %s, containers: [{name: a, image: a}]}\nstatus: {podIP: %[2]q, podIPs: [{ip: %[2]q}]}\n",
		w.node.Name(), w.pods[0].IPv4()))
	w.start()
	until(t, "start", func() error { return w.ways()[0].one(t.Context()) })
	until(t, "DNS", func() error {
		_, err := w.lookup(context.Background(), baseName)
		return err
	})
	node, pod := w.node.IPv4().String(), w.pods[0].IPv4().String()
	for _, c := range []struct {
		ask  string
		fail bool
		says []string // an exclamation mark before it: not
	}{
		{"get services", false, []string{"NAME … TYPE … CLUSTER-IP", "base … NodePort … " + baseVIP, "!NAMESPACE"}},
		{"get services -A", false, []string{"NAMESPACE … NAME … TYPE", "default … base … NodePort"}},
		{"get SVC base", false, []string{"base … NodePort"}},
		{"get svc/base", false, []string{"base … NodePort"}},
		{"get services,gateways", false, []string{"base … NodePort", "base … Accepted,ResolvedRefs"}},
		{"get svc base -o name", false, []string{"service/base"}},
		{"get svc base -o yaml", false, []string{"kind: Service", "clusterIP: " + baseVIP, "!kind: List"}},
		{"get svc -o json", false, []string{`"kind": "List"`, `"clusterIP": "` + baseVIP + `"`}},
		{"get svc base -o wide", false, []string{"POLICY … HERE … CONNECTIONS … SELECTOR … MESSAGE", "base … Cluster … <none> … 0 … 2 … 0"}},
		{"get svc base -o json", false, []string{`"kind": "Service"`, `"frontends": [`, `"kind": "NodePort"`, `"connections": `, `"elsewhere": 2`}},
		{"get endpoints base", false, []string{"SERVICE … PORT … ADDRESS … NODE … STATE … WEIGHT … SHARE … UNUSED", "base … 9000/TCP … " + pod + ":9000 … Ready … 50.0%"}},
		{"get ep base -o json", false, []string{`"share": 0.5`, `"address": "` + pod + `"`}},
		{"get secrets -o yaml", false, []string{"type: kubernetes.io/tls", "!tls.key"}},
		{"get svc -n other", false, []string{"No svc found in namespace other."}},
		{"get problems", false, []string{"Service shop/shop … spec.ports[0].port: must be a number from 1 to 65535, found 0"}},
		{"get svc nope", true, []string{`svc: "nope" not found`}},
		{"get nope", true, []string{`there is no resource "nope"; there are … gateways … services`, "!svc"}},
		{"get svc -o xml", true, []string{`-o "xml": expected wide, json, yaml or name`}},
		{"get", true, []string{"expected a resource, such as services"}},

		{"trace " + pod + " " + baseVIP + ":9000", false, []string{"Service default/base, ClusterIP, port 9000 tcp", "50.0%  " + pod + ":9000", "nftables: the kernel's rules agree"}},
		{"trace pod/default/pod0 svc/default/base:9000", false, []string{"pod/default/pod0 is " + pod, "svc/default/base is " + baseVIP, pod + " -> tcp " + baseVIP + ":9000", "the kernel's rules agree"}},
		{"trace pod/default/pod0 base.default:9000 -o json", false, []string{`"source": "` + pod + `"`, `"destination": "` + baseVIP + `:9000"`,
			`"service": "default/base"`, `"frontend": "ClusterIP"`, `"action": "cluster"`, `"probability": 0.5`, `"engine": "nftables"`, `"rules": [`, "!differences", "! is " + baseVIP}},
		{"trace pod/default/nope base:9000", true, []string{`pods: "nope" not found`}},
		{"trace pod0 base:9000", true, []string{"pod0: "}},
		{"trace node svc/default/nope:80", true, []string{"there is no Service default/nope"}},
		{"trace node svc/default/base:http", false, []string{"Service default/base, ClusterIP, port 80 http", "the kernel's rules agree"}},
		{"trace node svc/default/base:nope", true, []string{`the Service default/base has no tcp port "nope"`}},
		{"trace node base:9000 -o yaml", true, []string{`-o "yaml": expected json`}},
		{"trace 10.250.0.11 " + node + ":" + basePort, false, []string{"Service default/base, NodePort", "50.0%  " + pod + ":9000"}},
		{"trace node base:9000", false, []string{"base is " + baseVIP + ": the clusterIP of the Service default/base", "50.0%"}},
		{"trace node base.default.svc.cluster.local:9000", false, []string{"base.default.svc.cluster.local is " + baseVIP, "50.0%"}},
		{"trace node " + baseVIP + ":81", false, []string{"rejected: Service default/base has the address, but no tcp port 81", "the kernel's rules agree"}},
		{"trace node " + node + ":81", false, []string{"no Service answers there"}},
		{"trace node nope.default.svc.cluster.local:80", true, []string{"NXDOMAIN (no such name"}},
		{"trace node " + baseVIP, true, []string{"expected DST:PORT"}},
		{"trace node " + baseVIP + ":80/icmp", true, []string{"protocol: expected tcp, udp or sctp"}},

		{"dns query base.default.svc.cluster.local", false, []string{"NOERROR, from zone", "IN A " + baseVIP}},
		{"dns query base.default.svc.cluster.local AAAA", false, []string{"NOERROR", "the name exists, without records of this type"}},
		{"dns query nope.default.svc.cluster.local", false, []string{"NXDOMAIN", "no such Service"}},
		{"dns query base.default.svc.cluster.local FOO", true, []string{`unknown record type "FOO"`}},
	} {
		t.Run(c.ask, func(t *testing.T) {
			until(t, "an answer", func() error {
				out, code := w.run(t, nil, append(strings.Fields(c.ask), "--socket", w.socket())...)
				if (code != 0) != c.fail {
					return fmt.Errorf("exit status %d:\n%s", code, out)
				}
				for _, want := range c.says {
					unwanted, not := strings.CutPrefix(want, "!")
					switch err := found(strings.Split(out, "\n"), []string{want}); {
					case not && strings.Contains(out, unwanted):
						return fmt.Errorf("%q is in\n%s", unwanted, out)
					case !not && err != nil:
						return err
					}
				}
				return nil
			})
		})
	}
}
