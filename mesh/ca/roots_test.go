package ca_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/model"
)

func TestRoots(t *testing.T) {
	c := open(t, ca.Options{})
	synctest.Test(t, func(t *testing.T) {
		clients := fake.NewClientset()
		var failing atomic.Bool
		var writes atomic.Int64
		failing.Store(true)
		clients.PrependReactor("patch", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			writes.Add(1)
			if failing.Load() {
				return true, nil, errors.New("the API server is away")
			}
			return false, nil, nil
		})
		store := model.NewStore()
		put := func(ns string) {
			store.Update(func(tx *model.Txn) { model.Namespaces.Put(tx, &model.Namespace{Meta: model.Meta{Name: ns}}) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- ca.RootsPublisher{Client: clients, Store: store, CA: c}.Run(ctx) }()
		expect := func(when string, wantWrites int64, namespaces ...string) {
			t.Helper()
			synctest.Wait()
			for _, ns := range namespaces {
				m, err := clients.CoreV1().ConfigMaps(ns).Get(ctx, ca.RootsConfigMap, metav1.GetOptions{})
				if err != nil || m.Data[ca.RootsKey] != string(c.Roots()) {
					t.Errorf("%s: namespace %s: %v", when, ns, err)
				}
			}
			if n := writes.Load(); n != wantWrites {
				t.Errorf("%s: %d writes, want %d", when, n, wantWrites)
			}
		}
		put("shop")
		expect("refused", 1)
		failing.Store(false)
		time.Sleep(3 * time.Second)
		expect("tried again", 2, "shop")
		put("bank")
		expect("a new one", 3, "shop", "bank")
		time.Sleep(6 * time.Minute)
		expect("renewed", 5, "shop", "bank")
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
