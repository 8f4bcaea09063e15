package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

const long = "2020-01-01T00:00:00Z"

func condition(kind string, s metav1.ConditionStatus) metav1.Condition {
	return metav1.Condition{Type: kind, Status: s, Reason: "Because"}
}

func parents(p ...gatewayv1.RouteParentStatus) status.Report {
	return status.Report{Value: gatewayv1.HTTPRouteStatus{RouteStatus: gatewayv1.RouteStatus{Parents: p}}}
}

func parent(gateway, controller string, c ...metav1.Condition) gatewayv1.RouteParentStatus {
	return gatewayv1.RouteParentStatus{ParentRef: gatewayv1.ParentReference{Name: gatewayv1.ObjectName(gateway)}, ControllerName: gatewayv1.GatewayController(controller), Conditions: c}
}

// TestMerge compares statuses as text, with <now> for the time of a transition
// that is new.
func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name   string
		kind   model.KindID
		old    string
		report status.Report
		want   string
	}{
		{
			name: "a route's first status", kind: model.KindHTTPRoute, old: `null`,
			report: parents(parent("gw", ControllerName, condition("Accepted", "True"))),
			want:   `{"parents":[{"conditions":[{"lastTransitionTime":"<now>","message":"","reason":"Because","status":"True","type":"Accepted"}],"controllerName":"sluice.io/gateway-controller","parentRef":{"name":"gw"}}]}`,
		}, {
			name: "other controllers' entries stay, with what we know nothing of", kind: model.KindHTTPRoute,
			old:    `{"parents":[{"controllerName":"other.io/x","parentRef":{"name":"gw"},"new":1},{"controllerName":"sluice.io/gateway-controller","parentRef":{"name":"old"},"conditions":[]}]}`,
			report: parents(parent("gw", ControllerName), parent("gw", "other.io/x")),
			want:   `{"parents":[{"controllerName":"other.io/x","new":1,"parentRef":{"name":"gw"}},{"conditions":[],"controllerName":"sluice.io/gateway-controller","parentRef":{"name":"gw"}}]}`,
		}, {
			name: "a transition's time stays while the status does", kind: model.KindHTTPRoute,
			old:    `{"parents":[{"controllerName":"sluice.io/gateway-controller","parentRef":{"name":"gw"},"conditions":[{"type":"Accepted","status":"True","reason":"Old","message":"","lastTransitionTime":"` + long + `"},{"type":"ResolvedRefs","status":"True","reason":"Because","message":"","lastTransitionTime":"` + long + `"}]}]}`,
			report: parents(parent("gw", ControllerName, condition("Accepted", "True"), condition("ResolvedRefs", "False"))),
			want:   `{"parents":[{"conditions":[{"lastTransitionTime":"2020-01-01T00:00:00Z","message":"","reason":"Because","status":"True","type":"Accepted"},{"lastTransitionTime":"<now>","message":"","reason":"Because","status":"False","type":"ResolvedRefs"}],"controllerName":"sluice.io/gateway-controller","parentRef":{"name":"gw"}}]}`,
		}, {
			name: "a route of which nothing is said loses our entries", kind: model.KindHTTPRoute,
			old:  `{"parents":[{"controllerName":"sluice.io/gateway-controller","parentRef":{"name":"gw"}},{"controllerName":"other.io/x","parentRef":{"name":"gw"}}]}`,
			want: `{"parents":[{"controllerName":"other.io/x","parentRef":{"name":"gw"}}]}`,
		}, {
			name: "a Gateway keeps conditions of others and drops listeners that are gone", kind: model.KindGateway,
			old:    `{"addresses":[{"value":"192.0.2.1"}],"conditions":[{"type":"other.io/Billed","status":"True"},{"type":"Programmed","status":"False","lastTransitionTime":"` + long + `"}],"listeners":[{"name":"a","conditions":[{"type":"Accepted","status":"True","lastTransitionTime":"` + long + `"}]},{"name":"b"}]}`,
			report: status.Report{Value: gatewayv1.GatewayStatus{Conditions: []metav1.Condition{condition("Programmed", "True")}, Listeners: []gatewayv1.ListenerStatus{{Name: "a", SupportedKinds: []gatewayv1.RouteGroupKind{}, AttachedRoutes: 2, Conditions: []metav1.Condition{condition("Accepted", "True")}}}}},
			want:   `{"conditions":[{"status":"True","type":"other.io/Billed"},{"lastTransitionTime":"<now>","message":"","reason":"Because","status":"True","type":"Programmed"}],"listeners":[{"attachedRoutes":2,"conditions":[{"lastTransitionTime":"2020-01-01T00:00:00Z","message":"","reason":"Because","status":"True","type":"Accepted"}],"name":"a","supportedKinds":[]}]}`,
		}, {
			name: "an Ingress gets its addresses", kind: model.KindIngress, old: `null`,
			report: status.Report{Value: &networkingv1.IngressStatus{LoadBalancer: networkingv1.IngressLoadBalancerStatus{Ingress: []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}}}},
			want:   `{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}`,
		}, {
			name: "Istio's kinds get conditions among those that are there", kind: model.KindVirtualService,
			old:    `{"validationMessages":[{}],"conditions":[{"type":"Reconciled","status":"True"}]}`,
			report: status.Report{Conditions: []metav1.Condition{condition("Accepted", "False")}},
			want:   `{"conditions":[{"status":"True","type":"Reconciled"},{"lastTransitionTime":"<now>","message":"","reason":"Because","status":"False","type":"Accepted"}],"validationMessages":[{}]}`,
		}, {
			name: "conditions alone are no status of a Gateway", kind: model.KindGateway, old: `{"conditions":[]}`,
			report: status.Report{Conditions: []metav1.Condition{condition("Accepted", "False")}},
			want:   `{"conditions":[]}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var old map[string]any
			if err := json.Unmarshal([]byte(c.old), &old); err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(old)
			m := merge{reports: map[string]status.Report{"part": c.report}, controller: ControllerName}
			next, err := mergers[c.kind](m, old)
			if err != nil {
				t.Fatal(err)
			}
			if got := text(t, next); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if fmt.Sprint(old) != before {
				t.Errorf("the old status was written to: %v", old)
			}
			// What is written once stays: else two replicas would never rest.
			again, err := mergers[c.kind](m, next)
			if err != nil || !sameJSON(next, again) {
				t.Errorf("a second time gives %s, %v", text(t, again), err)
			}
		})
	}
}

// text prints a status with <now> for times that are not long ago.
func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out := string(b)
	const field = `"lastTransitionTime":"`
	for at := 0; ; {
		i := strings.Index(out[at:], field)
		if i < 0 {
			return out
		}
		at += i + len(field)
		end := at + strings.IndexByte(out[at:], '"')
		if out[at:end] != long {
			out = out[:at] + "<now>" + out[end:]
		}
	}
}

func gatewayClass() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": map[string]any{"name": "sluice"},
	}}
}

// TestStatusWriter writes through client-go's fake: once for a report, not
// again for the same, again after a conflict, and not for what is gone.
func TestStatusWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kind, _ := source.KindOf(model.KindGatewayClass)
		client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
			kind.GVR("v1"): "GatewayClassList", kind.GVR("v1beta1"): "GatewayClassList",
		}, gatewayClass())
		conflicts := 2
		client.PrependReactor("update", "gatewayclasses", func(clienttesting.Action) (bool, runtime.Object, error) {
			if conflicts--; conflicts >= 0 {
				return true, nil, apierrors.NewConflict(schema.GroupResource{}, "sluice", nil)
			}
			return false, nil, nil
		})
		writes := func() (n int) {
			for _, a := range client.Actions() {
				if a.GetVerb() == "update" && a.GetSubresource() == "status" {
					n++
				}
			}
			return n
		}
		board := status.NewBoard()
		w, err := NewStatusWriter(StatusOptions{Client: client, Board: board, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		key := model.Key{Kind: model.KindGatewayClass, Name: "sluice"}
		set := func(s metav1.ConditionStatus) {
			board.Set("ingress", key, status.Report{Value: gatewayv1.GatewayClassStatus{Conditions: []metav1.Condition{condition("Accepted", s)}}})
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		set(metav1.ConditionTrue)
		if got := writes(); got != 3 { // two of them in conflict
			t.Errorf("%d writes", got)
		}
		got, err := client.Resource(kind.GVR("v1")).Get(ctx, "sluice", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s := text(t, got.Object["status"]); !strings.Contains(s, `"status":"True","type":"Accepted"`) {
			t.Errorf("status: %s", s)
		}
		// Another part's report wakes the writer, with nothing new for it.
		board.Set("source", key, status.Report{Where: "elsewhere"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := writes(); got != 3 {
			t.Errorf("%d writes after a report that says the same", got)
		}
		board.Set("ingress", model.Key{Kind: model.KindGatewayClass, Name: "gone"}, status.Report{Value: gatewayv1.GatewayClassStatus{}})
		set(metav1.ConditionFalse)
		if got := writes(); got != 4 {
			t.Errorf("%d writes after a change", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
