package ca_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/model"
)

func TestRoots(t *testing.T) {
	c := open(t, ca.Options{})
	synctest.Test(t, func(t *testing.T) {
		clients := fake.NewClientset()
		failing, writes := true, 0
		clients.PrependReactor("patch", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			if writes++; failing {
				return true, nil, errors.New("no such namespace yet")
			}
			return false, nil, nil
		})
		store := model.NewStore()
		put := func(ns, name string, sidecar bool) {
			pod := &model.Pod{Meta: model.Meta{Namespace: ns, Name: name}}
			if sidecar {
				pod.Annotations = map[string]string{mesh.SidecarAnnotation: mesh.SidecarInjected}
			}
			store.Update(func(tx *model.Txn) { model.Pods.Put(tx, pod) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- ca.RootsPublisher{Client: clients, Store: store, CA: c}.Run(ctx) }()
		put("plain", "p", false)
		put("shop", "p", true)
		synctest.Wait()
		failing = false
		put("shop", "q", true) // tried again, and once is enough
		synctest.Wait()
		put("shop", "r", true)
		synctest.Wait()
		list, err := clients.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || list.Items[0].Namespace != "shop" ||
			list.Items[0].Data[ca.RootsKey] != string(c.Roots()) || writes != 2 {
			t.Errorf("%+v %v after %d writes", list, err, writes)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
