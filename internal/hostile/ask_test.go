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
		{"get svc base -o wide", false, []string{"SELECTOR … MESSAGE"}},
		{"get secrets -o yaml", false, []string{"type: kubernetes.io/tls", "!tls.key"}},
		{"get svc -n other", false, []string{"No svc found in namespace other."}},
		{"get problems", false, []string{"Service shop/shop … spec.ports[0].port: must be a number from 1 to 65535, found 0"}},
		{"get svc nope", true, []string{`svc: "nope" not found`}},
		{"get nope", true, []string{`there is no resource "nope"; there are … gateways … services`, "!svc"}},
		{"get svc -o xml", true, []string{`-o "xml": expected wide, json, yaml or name`}},
		{"get", true, []string{"expected a resource, such as services"}},

		{"trace " + pod + " " + baseVIP + ":9000", false, []string{"Service default/base, ClusterIP, port 9000 tcp", "50.0%  " + pod + ":9000"}},
		{"trace 10.250.0.11 " + node + ":" + basePort, false, []string{"Service default/base, NodePort", "50.0%  " + pod + ":9000"}},
		{"trace node base:9000", false, []string{"base is " + baseVIP + ": the clusterIP of the Service default/base", "50.0%"}},
		{"trace node base.default.svc.cluster.local:9000", false, []string{"base.default.svc.cluster.local is " + baseVIP, "50.0%"}},
		{"trace node " + baseVIP + ":81", false, []string{"no Service answers there"}},
		{"trace node nope.default.svc.cluster.local:80", true, []string{"NXDOMAIN (no such name"}},
		{"trace node " + baseVIP, true, []string{"expected DST:PORT"}},
		{"trace node " + baseVIP + ":80/icmp", true, []string{"protocol: expected tcp, udp or sctp"}},
		{"trace pod0 " + baseVIP + ":80", true, []string{`source: expected an address or "node", found pod0`}},

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
