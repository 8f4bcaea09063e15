package corefile

import (
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// filter takes over what the kubernetes plugin hides of the cluster.
func (im *importer) filter(o directive) {
	f := &im.c.DNS.Filter
	switch o.name {
	case "namespaces":
		for _, ns := range o.args {
			if len(validation.IsDNS1123Label(ns)) > 0 {
				im.lost(o, "%s is no namespace", ns)
				continue
			}
			f.Namespaces = append(f.Namespaces, ns)
		}
	case "namespace_labels":
		im.selector(o, &f.NamespaceLabels)
	case "labels":
		im.selector(o, &f.Labels)
	case "ignore":
		if first(o.args) != "empty_service" {
			im.lost(o, "expected empty_service")
			return
		}
		f.EmptyServices = true
	case "noendpoints":
		f.NoEndpoints = true
	}
}

// selector takes over one whose words are arguments of the directive.
func (im *importer) selector(o directive, to *string) {
	text := strings.Join(o.args, " ")
	if _, err := labels.Parse(text); err != nil {
		im.lost(o, "expected a label selector")
		return
	}
	*to = text
}
