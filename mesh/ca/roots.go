package ca

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyv1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/model"
)

// RootsConfigMap is the ConfigMap in which sidecars find the roots, in each
// namespace that has any, and RootsKey its key.
const (
	RootsConfigMap = "sluice-mesh-roots"
	RootsKey       = "root.pem"
)

// RootsPublisher puts the roots into the namespaces of a cluster in which there
// are Pods with sidecars. A Pod waits for the ConfigMap before it starts.
type RootsPublisher struct {
	Client kubernetes.Interface
	Store  *model.Store
	CA     *CA
	Log    *slog.Logger // nil: slog.Default()
}

// retryRoots is how long it waits after a namespace could not be written.
const retryRoots = 5 * time.Second

// Run publishes until the context ends, whose error it returns.
func (p RootsPublisher) Run(ctx context.Context) error {
	log := p.Log
	if log == nil {
		log = slog.Default()
	}
	w := p.Store.Watch()
	defer w.Stop()
	done, failed := map[string]bool{}, map[string]bool{}
	for {
		next, cancel := ctx, context.CancelFunc(func() {})
		if len(failed) > 0 {
			next, cancel = context.WithTimeout(ctx, retryRoots)
		}
		up, err := w.Next(next)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		todo := failed
		failed = map[string]bool{}
		if err == nil {
			for _, key := range up.Changed {
				if pod, ok := podWithSidecar(up.New, key); ok && !done[pod.Namespace] {
					todo[pod.Namespace] = true
				}
				if key.Kind == model.KindNamespace && !up.New.Has(key) {
					delete(done, key.Name) // and the ConfigMap with it
				}
			}
		}
		for ns := range todo {
			if err := p.publish(ctx, ns); err != nil {
				log.Warn("roots not published", "namespace", ns, "error", err)
				failed[ns] = true
				continue
			}
			log.Info("roots published", "namespace", ns)
			done[ns] = true
		}
	}
}

func podWithSidecar(snap *model.Snapshot, key model.Key) (*model.Pod, bool) {
	if key.Kind != model.KindPod {
		return nil, false
	}
	pod, ok := model.Pods.Get(snap, key.Namespace, key.Name)
	return pod, ok && mesh.HasSidecar(pod)
}

func (p RootsPublisher) publish(ctx context.Context, namespace string) error {
	want := applyv1.ConfigMap(RootsConfigMap, namespace).WithData(map[string]string{RootsKey: string(p.CA.Roots())})
	_, err := p.Client.CoreV1().ConfigMaps(namespace).Apply(ctx, want, metav1.ApplyOptions{FieldManager: "sluice-mesh", Force: true})
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s: %w", namespace, RootsConfigMap, err)
	}
	return nil
}
