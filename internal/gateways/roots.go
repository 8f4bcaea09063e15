package gateways

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/sluicenet/sluice/model"
)

// The ConfigMap in every namespace with the roots of the mesh, for sidecars and
// gateways to verify the control plane with.
const (
	RootsConfigMap = "sluice-mesh-roots"
	RootsKey       = "root.pem"
)

// Roots keeps [RootsConfigMap] in every namespace of a cluster.
type Roots struct {
	Client kubernetes.Interface
	Store  *model.Store
	PEM    []byte
	Log    *slog.Logger
}

// Run writes the ConfigMap into each namespace as it appears, and into all of
// them now and then, until the context ends.
func (r *Roots) Run(ctx context.Context) error {
	w := r.Store.Watch()
	defer w.Stop()
	due := map[string]bool{}
	for {
		wait, cancel := context.WithTimeout(ctx, resync)
		if len(due) > 0 {
			cancel()
			wait, cancel = context.WithTimeout(ctx, 2*time.Second)
		}
		up, err := w.Next(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && len(due) == 0:
			for n := range model.Namespaces.All(r.Store.Snapshot()) {
				due[n.Name] = true
			}
		}
		for _, key := range up.Changed {
			if key.Kind == model.KindNamespace && up.New.Has(key) && !up.Old.Has(key) {
				due[key.Name] = true
			}
		}
		for namespace := range due {
			err := r.write(ctx, namespace)
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				r.Log.Error("mesh roots", "error", err)
				continue // stays due
			}
			delete(due, namespace)
		}
	}
}

func (r *Roots) write(ctx context.Context, namespace string) error {
	b, err := json.Marshal(&corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: RootsConfigMap, Labels: map[string]string{labelManaged: manager}},
		Data:       map[string]string{RootsKey: string(r.PEM)},
	})
	if err != nil {
		return err
	}
	_, err = r.Client.CoreV1().ConfigMaps(namespace).Patch(ctx, RootsConfigMap, types.ApplyPatchType, b,
		metav1.PatchOptions{FieldManager: manager, Force: new(true)})
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s: %w", namespace, RootsConfigMap, err)
	}
	return nil
}
