// Package config is the configuration of a sluice process: one file of kind
// Configuration, and a flag of the same name for each of its fields.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// The identity of the file format.
const (
	APIVersion = "sluice.io/v1alpha1"
	Kind       = "Configuration"
)

// Configuration is the whole of it. A field's flag is its path with dashes:
// dns.listen is --dns-listen. The usage tag is the flag's help.
type Configuration struct {
	APIVersion string `json:"apiVersion,omitempty" flag:"-"`
	Kind       string `json:"kind,omitempty" flag:"-"`

	NodeName   string `json:"nodeName,omitempty" usage:"name of this node (default: the host's name)"`
	Manifests  string `json:"manifests,omitempty" flag:"manifests,f" usage:"directory of manifests to serve instead of a Kubernetes API server"`
	Kubeconfig string `json:"kubeconfig,omitempty" usage:"kubeconfig file (default: $KUBECONFIG, then the Pod's own service account)"`
	APIServer  string `json:"apiServer,omitempty" usage:"URL of the Kubernetes API server, instead of the one in the kubeconfig file"`
	StateDir   string `json:"stateDir,omitempty" usage:"directory that outlives a restart: the mesh's root certificate"`
	Socket     string `json:"socket,omitempty" usage:"Unix socket on which get and trace ask this process"`
	Metrics    string `json:"metrics,omitempty" usage:"address of /metrics, /healthz and /livez; empty: none"`
	Envoy      string `json:"envoy,omitempty" usage:"Envoy binary (default: found on $PATH, then where hack/envoy puts it)"`
	Zone       string `json:"zone,omitempty" usage:"cluster's DNS zone"`

	Log   Log   `json:"log,omitzero"`
	Proxy Proxy `json:"proxy,omitzero"`
	DNS   DNS   `json:"dns,omitzero"`
	XDS   XDS   `json:"xds,omitzero"`
	Mesh  Mesh  `json:"mesh,omitzero"`

	Gateways Gateways `json:"gateways,omitzero"`
}

// Log is what is written to standard error.
type Log struct {
	Level  string `json:"level,omitempty" usage:"debug, info, warn or error"`
	Format string `json:"format,omitempty" usage:"text or json"`
}

// XDS is the server that Envoys get their configuration from.
type XDS struct {
	Address string   `json:"address,omitempty" usage:"address on which sidecars and gateways get certificates and configuration, with TLS; empty: none"`
	Names   []string `json:"names,omitempty" usage:"further DNS names and addresses in the server's certificate"`
}

// Mesh is the service mesh.
type Mesh struct {
	TrustDomain     string          `json:"trustDomain,omitempty" usage:"SPIFFE trust domain"`
	RootNamespace   string          `json:"rootNamespace,omitempty" usage:"namespace whose PeerAuthentication holds for the whole mesh"`
	CertificateLife metav1.Duration `json:"certificateLife,omitzero" usage:"life of workload certificates; they are renewed at half of it"`
}

// Gateways are the Envoys that serve Gateways and Ingresses.
type Gateways struct {
	Addresses []netip.Addr `json:"addresses,omitempty" usage:"addresses that the Gateways of a directory of manifests get (default: this node's)"`
	Image     string       `json:"image,omitempty" usage:"image of the gateways that a control plane deploys on a cluster"`
}

// Default returns the configuration that holds where nothing is said.
func Default() Configuration {
	return Configuration{
		APIVersion: APIVersion,
		Kind:       Kind,
		StateDir:   "/var/lib/sluice",
		Socket:     "/run/sluice/sluice.sock",
		Metrics:    "127.0.0.1:10249",
		Zone:       "cluster.local",
		Log:        Log{Level: "info", Format: "text"},
		Proxy:      defaultProxy(),
		DNS:        defaultDNS(),
		XDS:        XDS{Address: ":15012"},
		Mesh:       Mesh{TrustDomain: "cluster.local", RootNamespace: "sluice-system", CertificateLife: metav1.Duration{Duration: 24 * time.Hour}},
	}
}

// Load reads a file over what c says already. Unknown fields are errors.
func (c *Configuration) Load(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := c.parse(b); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

func (c *Configuration) parse(b []byte) error {
	// Kubernetes' own decoder: names of fields are case-sensitive, and an
	// unknown one is named by its path.
	doc, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return err
	}
	var id metav1.TypeMeta
	if err := json.UnmarshalCaseSensitivePreserveInts(doc, &id); err == nil && id.Kind == "KubeProxyConfiguration" {
		return errors.New("kind: a KubeProxyConfiguration is given with --kube-proxy-config, not with --config")
	}
	strict, err := json.UnmarshalStrict(doc, c)
	if err != nil {
		err = Locate(doc, c, err)
	}
	if err := errors.Join(append(strict, err)...); err != nil {
		return err
	}
	if c.APIVersion != APIVersion {
		return fmt.Errorf("apiVersion: expected %q, found %q", APIVersion, c.APIVersion)
	}
	if c.Kind != Kind {
		return fmt.Errorf("kind: expected %q, found %q", Kind, c.Kind)
	}
	return nil
}

// Complete fills in what follows from several settings together. Call it when
// files and flags have been read.
func (c *Configuration) Complete() { c.Proxy.complete() }

// Validate checks what a type cannot say. Each error names the field, what was
// expected and what was found.
func (c *Configuration) Validate() error {
	return errors.Join(
		dnsName("zone", c.Zone),
		dnsName("mesh.trustDomain", c.Mesh.TrustDomain),
		dnsName("mesh.rootNamespace", c.Mesh.RootNamespace),
		address("metrics", c.Metrics),
		address("xds.address", c.XDS.Address),
		oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error"),
		oneOf("log.format", c.Log.Format, "text", "json"),
		c.Proxy.Validate(),
		c.DNS.validate(),
		c.DNS.validateZones(c.Zone),
		positive("mesh.certificateLife", c.Mesh.CertificateLife.Duration, time.Minute),
	)
}

func dnsName(field, value string) error {
	value = strings.TrimSuffix(value, ".")
	tooLong := func(label string) bool { return len(label) > validation.DNS1123LabelMaxLength }
	if len(validation.IsDNS1123Subdomain(value)) > 0 || slices.ContainsFunc(strings.Split(value, "."), tooLong) {
		return fmt.Errorf("%s: expected a DNS name in lower case, found %q", field, value)
	}
	return nil
}

// address checks the address of a server; empty is none.
func address(field, value string) error {
	if value == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s: expected HOST:PORT, found %q", field, value)
	}
	return nil
}

func oneOf(field, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s: expected one of %q, found %q", field, allowed, value)
}

func positive(field string, d, least time.Duration) error {
	if d < least {
		return fmt.Errorf("%s: expected at least %v, found %v", field, least, d)
	}
	return nil
}
