package ingress

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
)

// TestPortsOfOneMachine proves that each port has one Gateway, the oldest, in
// whatever order they come, change and go: what a planner says after a walk is
// what one says that sees the end alone.
func TestPortsOfOneMachine(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	options := PlannerOptions{Standalone: true, OneMachine: true}
	walked, store := NewPlanner(options), model.NewStore()
	said := map[model.Key]Report{}
	for range 300 {
		before := store.Snapshot()
		name := fmt.Sprintf("gw-%d", r.IntN(5))
		key := model.Key{Kind: model.KindGateway, Namespace: "default", Name: name}
		store.Update(func(tx *model.Txn) {
			if r.IntN(4) == 0 {
				tx.Delete(key)
				return
			}
			gw := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.Unix(int64(1+r.IntN(3)), 0)}}
			gw.Spec.GatewayClassName = DefaultClass
			for i := range 1 + r.IntN(2) {
				gw.Spec.Listeners = append(gw.Spec.Listeners, gatewayv1.Listener{
					Name: gatewayv1.SectionName(fmt.Sprintf("l%d", i)), Port: gatewayv1.PortNumber(80 + 10*i + r.IntN(3)), Protocol: gatewayv1.HTTPProtocolType,
				})
			}
			tx.Put(model.KindGateway, gw)
		})
		for _, rep := range walked.Update(model.Update{Old: before, New: store.Snapshot(), Changed: []model.Key{key}}).Reports {
			if delete(said, rep.Key); !rep.Gone {
				said[rep.Key] = rep
			}
		}
		var all []model.Key
		for k := range store.Snapshot().Keys(model.KindGateway) {
			all = append(all, k)
		}
		fresh := map[model.Key]Report{}
		owners := map[uint16]model.Key{}
		for _, rep := range NewPlanner(options).Update(model.Update{Old: model.Empty(), New: store.Snapshot(), Changed: all}).Reports {
			fresh[rep.Key] = rep
		}
		if !reflect.DeepEqual(said, fresh) {
			t.Fatalf("after the walk %v\nfrom nothing %v", said, fresh)
		}
		for _, gw := range walked.gateways {
			for _, port := range gw.ports {
				if other, taken := owners[port]; taken {
					t.Fatalf("port %d is %v's and %v's", port, other, gw.key)
				}
				owners[port] = gw.key
			}
		}
	}
}
