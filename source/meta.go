package source

import (
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
)

// annotationPrefix begins the annotations that are sluice's own.
const annotationPrefix = "sluice.io/"

// WeightAnnotation of an EndpointSlice is the share of each of its endpoints,
// a number from 0, which drains them, to 65535.
const WeightAnnotation = annotationPrefix + "weight"

// SchedulerAnnotation of a Service is the algorithm by which its connections
// are spread, by its name in IPVS, such as "wlc".
const SchedulerAnnotation = annotationPrefix + "scheduler"

// keepAnnotation says which annotations of the compact kinds some part reads.
func keepAnnotation(name string) bool {
	if strings.HasPrefix(name, annotationPrefix) {
		return true
	}
	switch name {
	case corev1.AnnotationTopologyMode, corev1.ServiceAccountNameKey, "networking.istio.io/exportTo":
		return true
	}
	return false
}

// keepLabel says which labels some part reads of the kinds that no selector
// matches.
func keepLabel(name string) bool {
	if strings.HasPrefix(name, annotationPrefix) {
		return true
	}
	return name == corev1.IsHeadlessService || name == serviceProxyName
}

// meta converts an object's metadata with all of its labels.
func meta(m *metav1.ObjectMeta) model.Meta {
	return model.Meta{
		Namespace:   intern(m.Namespace),
		Name:        m.Name,
		UID:         string(m.UID),
		Generation:  m.Generation,
		Created:     m.CreationTimestamp.Time,
		Labels:      internMap(m.Labels),
		Annotations: filter(m.Annotations, keepAnnotation),
	}
}

// serviceProxyName is the label of a Service that is for another service proxy.
const serviceProxyName = "service.kubernetes.io/service-proxy-name"

// slimMeta is meta without UID and with only the labels that keepLabel names, and
// those that are named in more.
func slimMeta(m *metav1.ObjectMeta, more ...string) model.Meta {
	out := meta(&metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, Annotations: m.Annotations,
	})
	out.Labels = filter(m.Labels, func(name string) bool { return keepLabel(name) || slices.Contains(more, name) })
	return out
}

// stripMeta takes off an API object what no part reads.
func stripMeta(m *metav1.ObjectMeta) {
	m.ManagedFields = nil
	m.ResourceVersion = ""
	m.OwnerReferences = nil
	m.Finalizers = nil
	m.GenerateName = ""
	delete(m.Annotations, corev1.LastAppliedConfigAnnotation)
	if len(m.Annotations) == 0 {
		m.Annotations = nil
	}
	m.Namespace = intern(m.Namespace)
}

func filter(in map[string]string, keep func(string) bool) map[string]string {
	var out map[string]string
	for k, v := range in {
		if !keep(k) {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[intern(k)] = intern(v)
	}
	return out
}

func internMap(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[intern(k)] = intern(v)
	}
	return out
}

// interned shares the memory of strings that many objects repeat: namespaces,
// node names, zones, labels, port names. It forgets all when it has grown to
// internMax, which costs sharing with what is there already and nothing else.
var interned = struct {
	mu    sync.Mutex
	table map[string]string
}{table: map[string]string{}}

const internMax = 1 << 16

func intern(s string) string {
	if s == "" {
		return ""
	}
	if len(s) > 256 {
		return s
	}
	interned.mu.Lock()
	defer interned.mu.Unlock()
	if known, ok := interned.table[s]; ok {
		return known
	}
	if len(interned.table) >= internMax {
		clear(interned.table)
	}
	// The clone keeps the table from holding on to a whole manifest or
	// response of which s may be a part.
	s = strings.Clone(s)
	interned.table[s] = s
	return s
}
