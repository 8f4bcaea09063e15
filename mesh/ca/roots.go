package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyv1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sluicenet/sluice/model"
)

// RootsConfigMap is the ConfigMap in every namespace with the roots of the
// mesh, for sidecars and gateways to verify the control plane with, and RootsKey
// its key.
const (
	RootsConfigMap = "sluice-mesh-roots"
	RootsKey       = "root.pem"
)

// RootsPublisher keeps [RootsConfigMap] in every namespace of a cluster. A Pod
// waits for it before it starts.
type RootsPublisher struct {
	Client kubernetes.Interface
	Store  *model.Store
	CA     *CA
	Log    *slog.Logger // nil: slog.Default()
}

// retryRoots is how long it waits after a namespace could not be written, and
// renewRoots until it writes all once more, whoever has removed one.
const (
	retryRoots = 2 * time.Second
	renewRoots = 5 * time.Minute
)

// Run writes the ConfigMap into each namespace as it appears, until the context
// ends, whose error it returns.
func (p RootsPublisher) Run(ctx context.Context) error {
	if p.Log == nil {
		p.Log = slog.Default()
	}
	w := p.Store.Watch()
	defer w.Stop()
	due := map[string]bool{}
	for {
		wait := renewRoots
		if len(due) > 0 {
			wait = retryRoots
		}
		next, cancel := context.WithTimeout(ctx, wait)
		up, err := w.Next(next)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && len(due) == 0:
			for n := range model.Namespaces.All(p.Store.Snapshot()) {
				due[n.Name] = true
			}
		}
		for _, key := range up.Changed {
			if key.Kind == model.KindNamespace && up.New.Has(key) && !up.Old.Has(key) {
				due[key.Name] = true
			}
		}
		for namespace := range due {
			err := p.publish(ctx, namespace)
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				p.Log.Warn("roots not published", "namespace", namespace, "error", err)
				continue // stays due
			}
			delete(due, namespace)
		}
	}
}

func (p RootsPublisher) publish(ctx context.Context, namespace string) error {
	want := applyv1.ConfigMap(RootsConfigMap, namespace).WithData(map[string]string{RootsKey: string(p.CA.Roots())})
	_, err := p.Client.CoreV1().ConfigMaps(namespace).Apply(ctx, want, metav1.ApplyOptions{FieldManager: "sluice-mesh", Force: true})
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s: %w", namespace, RootsConfigMap, err)
	}
	return nil
}
