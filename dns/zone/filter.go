package zone

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluicenet/sluice/model"
)

// Filter says which of the cluster's names exist for clients, as the options
// namespaces, namespace_labels, labels, ignore empty_service and noendpoints of
// CoreDNS' kubernetes plugin do. What it hides is as if it were not in the
// cluster: its names do not exist, and its addresses lead to none. The zero Filter
// hides nothing.
//
// The Service that is the zone's name server is never hidden, for the zone's NS
// record leads to it.
type Filter struct {
	// Namespaces are the only ones that have names; empty: all have.
	Namespaces []string
	// NamespaceLabels selects namespaces by their labels; nil: all. A namespace
	// has the label kubernetes.io/metadata.name, whether or not it is written out.
	NamespaceLabels labels.Selector
	// Labels selects Services by their labels; nil: all. What the source of the
	// model does not keep of them cannot be selected by.
	Labels labels.Selector
	// EmptyServices hides Services with a ClusterIP that have no ready endpoint.
	EmptyServices bool
	// NoEndpoints hides the names of all endpoints, and with them Services without
	// a ClusterIP.
	NoEndpoints bool
}

// ParseFilter reads the selectors of a filter as Kubernetes writes them
// (k8s.io/apimachinery/pkg/labels); an empty one selects all. The errors begin with
// the keys that configurations have for them, "namespaceLabels" and "labels".
func ParseFilter(namespaceLabels, services string) (Filter, error) {
	var f Filter
	var errs []error
	for _, s := range []struct {
		key, text string
		to        *labels.Selector
	}{{"namespaceLabels", namespaceLabels, &f.NamespaceLabels}, {"labels", services, &f.Labels}} {
		selector, err := labels.Parse(s.text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: expected a label selector such as team=a, found %q: %w", s.key, s.text, err))
			continue
		}
		*s.to = selector
	}
	return f, errors.Join(errs...)
}

// ServiceLabels returns the names of the labels that a source has to keep of
// Services for the filter.
func (f *Filter) ServiceLabels() []string {
	if f.Labels == nil {
		return nil
	}
	var names []string
	requirements, _ := f.Labels.Requirements()
	for _, r := range requirements {
		names = append(names, r.Key())
	}
	return names
}

// exposed reports whether a namespace may have names. It need not exist.
func (b *builder) exposed(s *model.Snapshot, ns string) bool {
	if only := b.Filter.Namespaces; len(only) > 0 && !slices.Contains(only, ns) {
		return false
	}
	selector := b.Filter.NamespaceLabels
	if selector == nil || selector.Empty() {
		return true
	}
	set := labels.Set{}
	if o, ok := model.Namespaces.Get(s, "", ns); ok {
		maps.Copy(set, o.Labels)
	}
	// The API server sets it (KEP-2161); manifests need not have it.
	set[corev1.LabelMetadataName] = ns
	return selector.Matches(set)
}

// hides reports whether a Service is as if it were not there.
func (b *builder) hides(s *model.Snapshot, svc *model.Service) bool {
	f := &b.Filter
	switch {
	case b.isNameserver(svc):
		return false
	case !b.exposed(s, svc.Namespace):
		return true
	case f.Labels != nil && !f.Labels.Matches(labels.Set(svc.Labels)):
		return true
	}
	return f.EmptyServices && len(svc.ClusterIPs) > 0 && !hasReady(s, svc)
}

// isNameserver reports whether a Service leads to this server; see [builder.system].
func (b *builder) isNameserver(svc *model.Service) bool {
	if b.Service.Name != "" && b.Service == (model.Name{Namespace: svc.Namespace, Name: svc.Name}) {
		return true
	}
	for _, ip := range svc.ClusterIPs {
		for _, own := range b.Nameservers {
			if own.Unmap() == ip {
				return true
			}
		}
	}
	return false
}

// hasReady reports whether a Service has an endpoint that is ready, or tolerates
// those that are not and has any.
func hasReady(s *model.Snapshot, svc *model.Service) bool {
	for slice := range model.SlicesByService.Find(s, svc.Namespace+"/"+svc.Name) {
		for i := range slice.Endpoints {
			if slice.Endpoints[i].Ready || svc.PublishNotReady {
				return true
			}
		}
	}
	return false
}

// revealed returns the Services of a namespace that it shows or hides by a change
// of its labels.
func (b *builder) revealed(u model.Update, ns string) []model.Name {
	if b.exposed(u.Old, ns) == b.exposed(u.New, ns) {
		return nil
	}
	var out []model.Name
	for _, s := range []*model.Snapshot{u.Old, u.New} {
		for svc := range model.Services.In(s, ns) {
			out = append(out, model.Name{Namespace: ns, Name: svc.Name})
		}
	}
	return out
}
