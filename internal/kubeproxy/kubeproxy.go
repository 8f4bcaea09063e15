// Package kubeproxy takes over a kube-proxy's configuration: a
// KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1, as the ConfigMap
// kube-proxy of a kubeadm cluster has it.
//
// Every field is either carried over to our own configuration, with kube-proxy's
// default where it is not there, or named in a [Note] if it is set and has no
// meaning here. A field that the type does not have is an error.
package kubeproxy

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/sluicenet/sluice/internal/config"
)

// The identity of the file format.
const (
	APIVersion = "kubeproxy.config.k8s.io/v1alpha1"
	Kind       = "KubeProxyConfiguration"
)

// Note names a field that is set and has no meaning here.
type Note struct {
	Field string // such as "iptables.minSyncPeriod"
	Why   string
}

// String returns "iptables.minSyncPeriod: changes are programmed at once".
func (n Note) String() string { return n.Field + ": " + n.Why }

// Load reads a file and carries it over to c. The error names the fields that
// are wrong.
func Load(path string, c *config.Configuration) ([]Note, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("kube-proxy's configuration: %w", err)
	}
	in, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("kube-proxy's configuration %s: %w", path, err)
	}
	notes, err := Apply(in, c)
	if err != nil {
		return nil, fmt.Errorf("kube-proxy's configuration %s: %w", path, err)
	}
	return notes, nil
}

// Configuration is a KubeProxyConfiguration with the fields that have come to it
// after the version of its module.
type Configuration struct {
	v1alpha1.KubeProxyConfiguration `json:",inline"`
	// ServiceProxyName is there since Kubernetes 1.37.
	ServiceProxyName string `json:"serviceProxyName,omitempty"`
}

// Parse reads a KubeProxyConfiguration in YAML or JSON. Unknown fields, fields
// that are there twice and values of a wrong type are errors.
func Parse(b []byte) (*Configuration, error) {
	doc, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, err
	}
	in := &Configuration{}
	strict, err := json.UnmarshalStrict(doc, in)
	if err != nil {
		err = config.Locate(doc, &in.KubeProxyConfiguration, err)
	}
	if err := errors.Join(append(strict, err)...); err != nil {
		return nil, err
	}
	if in.APIVersion != APIVersion {
		return nil, fmt.Errorf("apiVersion: expected %q, found %q", APIVersion, in.APIVersion)
	}
	if in.Kind != Kind {
		return nil, fmt.Errorf("kind: expected %q, found %q", Kind, in.Kind)
	}
	return in, nil
}

// Apply carries a kube-proxy's configuration over to c. Where it returns an
// error, which names all fields that are wrong, c is as it was.
func Apply(in *Configuration, c *config.Configuration) ([]Note, error) {
	out := *c
	var notes []Note
	var errs []error
	for _, f := range fields {
		why, err := f.carry(&in.KubeProxyConfiguration, &out)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		case why != "":
			notes = append(notes, Note{f.name, why})
		}
	}
	if out.Proxy.ProxyName = cmp.Or(in.ServiceProxyName, out.Proxy.ProxyName); in.ServiceProxyName != "" {
		if wrong := validation.IsValidLabelValue(in.ServiceProxyName); len(wrong) > 0 {
			errs = append(errs, fmt.Errorf("serviceProxyName: expected the value of a label, found %q", in.ServiceProxyName))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	*c = out
	return notes, nil
}
