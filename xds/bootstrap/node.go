package bootstrap

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/route"
)

// The roles of proxies, the first part of a node id.
const (
	roleGateway = "gateway"
	roleSidecar = "sidecar"
)

// noNamespace is no name that the API allows.
const noNamespace = "-"

// GatewayNode is the node id of one of the proxies of a Gateway. Instance
// tells them apart: the Pod's name, or the host's in standalone. The gateway of
// an IngressClass has no namespace, which a node id writes as "-".
func GatewayNode(namespace, name, instance string) string {
	if namespace == "" {
		namespace = noNamespace
	}
	return strings.Join([]string{roleGateway, namespace, name, instance}, "/")
}

// SidecarNode is the node id of a Pod's sidecar.
func SidecarNode(namespace, pod string) string {
	return strings.Join([]string{roleSidecar, namespace, pod}, "/")
}

// Groups returns the groups of resources that the proxy with a node id gets.
// The id is what the proxy says of itself: whether it may is for the caller to
// check, with [Namespace] against what its certificate says.
func Groups(node string) ([]route.Group, error) {
	parts, err := split(node)
	if err != nil {
		return nil, err
	}
	if parts[0] == roleGateway {
		return []route.Group{route.GatewayGroup(namespaceOf(parts), parts[2])}, nil
	}
	return []route.Group{
		route.MeshGroup,
		route.NamespaceGroup(parts[1]),
		route.WorkloadGroup(parts[1], parts[2]),
	}, nil
}

// Namespace returns the namespace in a node id.
func Namespace(node string) (string, error) {
	parts, err := split(node)
	if err != nil {
		return "", err
	}
	return namespaceOf(parts), nil
}

func namespaceOf(parts []string) string {
	if parts[0] == roleGateway && parts[1] == noNamespace {
		return ""
	}
	return parts[1]
}

// split takes a node id apart and checks that it is one.
func split(node string) ([]string, error) {
	parts := strings.Split(node, "/")
	want := map[string]int{roleGateway: 4, roleSidecar: 3}[parts[0]]
	if want == 0 || len(parts) != want {
		return nil, fmt.Errorf("node id %q is neither gateway/<namespace>/<name>/<instance> nor sidecar/<namespace>/<pod>", node)
	}
	if slices.Contains(parts, "") {
		return nil, fmt.Errorf("node id %q has an empty part", node)
	}
	return parts, nil
}
