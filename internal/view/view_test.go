package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

func world() (*model.Store, *status.Board, func() []source.Problem) {
	store, board := model.NewStore(), status.NewBoard()
	addr := netip.MustParseAddr
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, &model.Service{
			Meta: model.Meta{Namespace: "default", Name: "web"}, Type: corev1.ServiceTypeNodePort,
			ClusterIPs: []netip.Addr{addr("10.96.0.1"), addr("fd00::1")}, Selector: "app=web",
			AffinityTimeout: time.Hour,
			Ports:           []model.ServicePort{{Name: "http", Protocol: "TCP", Port: 80, NodePort: 30080, TargetPort: "8080"}},
		})
		model.Services.Put(tx, &model.Service{Meta: model.Meta{Namespace: "other", Name: "db"}, Type: corev1.ServiceTypeClusterIP, Headless: true})
		model.EndpointSlices.Put(tx, &model.EndpointSlice{
			Meta: model.Meta{Namespace: "default", Name: "web-1"}, Service: "web", Weight: 1,
			Ports: []model.EndpointPort{{Name: "http", Protocol: "TCP", Port: 8080}},
			Endpoints: []model.Endpoint{
				{Addr: addr("10.0.0.1"), Ready: true, Serving: true, Node: "n1", Pod: "web-1"},
				{Addr: addr("10.0.0.2"), Serving: true, Terminating: true},
			},
		})
		model.Secrets.Put(tx, &model.Secret{Meta: model.Meta{Namespace: "default", Name: "tls"}, Data: map[string][]byte{"tls.key": []byte("hush")}})
		model.Gateways.Put(tx, &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "shop"}})
	})
	board.Set("proxy", model.Key{Kind: model.KindService, Namespace: "default", Name: "web"}, status.Report{Conditions: []metav1.Condition{
		{Type: "Programmed", Status: "False", Reason: "NodePortTaken", Message: "spec.ports[0].nodePort: 30080 belongs to default/old"},
	}})
	board.Set("ingress", model.Key{Kind: model.KindGateway, Namespace: "default", Name: "shop"}, status.Report{
		Conditions: []metav1.Condition{{Type: "Accepted", Status: "True"}, {Type: "Programmed", Status: "True"}},
		Value:      gatewayv1.GatewayStatus{Addresses: []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.1"}}},
	})
	return store, board, func() []source.Problem {
		return []source.Problem{{File: "a.yaml", Line: 3, Reason: source.ReasonParse, Err: errors.New("not YAML")}}
	}
}

func show(t *testing.T, table admin.Table, format string) string {
	t.Helper()
	var b bytes.Buffer
	if err := admin.Print(&b, table, "things", format); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTables(t *testing.T) {
	tables := Tables(world())
	for name, want := range map[string]string{
		"svc": `NAMESPACE   NAME   TYPE        CLUSTER-IP          EXTERNAL-IP   PORT(S)        READY   STATUS
default     web    NodePort    10.96.0.1,fd00::1   <none>        80:30080/TCP   1/2     NotProgrammed:NodePortTaken
other       db     ClusterIP   None                <none>        <none>         0/0     <none>
`,
		"endpoints": `NAMESPACE   SERVICE   ADDRESS    PORTS      STATE      NODE     POD
default     web       10.0.0.1   8080/TCP   Ready      n1       web-1
default     web       10.0.0.2   8080/TCP   Draining   <none>   <none>
`,
		"gateways": `NAMESPACE   NAME   STATUS
default     shop   Accepted,Programmed
`,
		"problems": `OBJECT                PART     CONDITION                          MESSAGE
a.yaml:3              source   ParseError                         a.yaml:3: not YAML
Service default/web   proxy    Programmed=False (NodePortTaken)   spec.ports[0].nodePort: 30080 belongs to default/old
`,
	} {
		if got := show(t, tables[name](), ""); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestObjects proves that objects have the API's form, with our status, and
// that no Secret leaves the process.
func TestObjects(t *testing.T) {
	tables := Tables(world())
	var gateways struct {
		APIVersion string
		Status     gatewayv1.GatewayStatus
	}
	one := tables["gateway"]()
	one.One = true
	if err := json.Unmarshal([]byte(show(t, one, "json")), &gateways); err != nil {
		t.Fatal(err)
	}
	if gateways.APIVersion != "gateway.networking.k8s.io/v1" || len(gateways.Status.Addresses) != 1 {
		t.Errorf("%+v", gateways)
	}
	services := show(t, tables["services"](), "yaml")
	for _, want := range []string{"kind: Service\n", "nodePort: 30080", "clusterIP: 10.96.0.1\n", "reason: NodePortTaken", "timeoutSeconds: 3600", "targetPort: 8080"} {
		if !strings.Contains(services, want) {
			t.Errorf("no %q in\n%s", want, services)
		}
	}
	if secret := show(t, tables["secrets"](), "yaml"); strings.Contains(secret, "hush") || strings.Contains(secret, "\ndata:") {
		t.Errorf("a secret shows its data:\n%s", secret)
	}
}

func TestEveryKindHasATable(t *testing.T) {
	tables := Tables(world())
	named := map[model.KindID]bool{}
	for _, r := range resources {
		named[r.kind] = true
		for _, n := range r.names {
			if tables[n] == nil {
				t.Errorf("no table %s", n)
			}
		}
	}
	for k := model.KindID(0); !strings.HasPrefix(k.String(), "KindID("); k++ {
		if !named[k] {
			t.Errorf("kind %v cannot be asked for", k)
		}
	}
}
