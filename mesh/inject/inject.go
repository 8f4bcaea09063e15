// Package inject adds a sidecar to the workloads in YAML manifests, as
// `sluice inject` does: the containers that make the Pod's rules and run its
// Envoy, the volumes that they read, and the annotation that says so.
package inject

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/ca"
)

// Options say what is added. The zero value is the usual.
type Options struct {
	// Image of the containers; empty: [DefaultImage].
	Image string
	// ControlPlane is the address that certificates and configuration come
	// from, host:port; empty: that of the manifests in this repository.
	ControlPlane string
}

// DefaultImage is what the manifests of this repository run.
const DefaultImage = "sluice"

// The names of what is added.
const (
	SidecarContainer  = "sluice-sidecar"
	RedirectContainer = "sluice-redirect"
	TokenVolume       = "sluice-token"
	RootsVolume       = "sluice-roots"
	RunVolume         = "sluice-run"
)

func (o *Options) setDefaults() {
	o.Image = cmp.Or(o.Image, DefaultImage)
	o.ControlPlane = cmp.Or(o.ControlPlane, fmt.Sprintf("%s:%d", ca.ServerName, mesh.ControlPlanePort))
}

// Error is a document that cannot be read or cannot have a sidecar.
type Error struct {
	Line int // of the input, where the document starts
	Err  error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Workload returns the manifests, one or more YAML documents, with a sidecar in
// each Pod and each template of Pods. All other documents stay as they are, byte
// for byte, and so do Pods whose annotation [mesh.SidecarAnnotation] says
// something else than [mesh.SidecarInjected]. What was injected before is
// brought to the state of these options, so that a second time changes nothing.
// An error is an [*Error].
func Workload(manifests []byte, o Options) ([]byte, error) {
	o.setDefaults()
	var out bytes.Buffer
	line := 1
	for _, doc := range split(manifests) {
		res, err := document(doc.body, o)
		if err != nil {
			return nil, &Error{line + doc.lines, err}
		}
		out.Write(doc.head)
		out.Write(res)
		line += bytes.Count(doc.head, []byte("\n")) + bytes.Count(doc.body, []byte("\n"))
	}
	return out.Bytes(), nil
}

// part is a document and what separates it from the one before.
type part struct {
	head  []byte
	body  []byte
	lines int // lines of head
}

// split cuts at the lines that start with "---", which are the only markers
// that Kubernetes' tools know.
func split(b []byte) []part {
	var parts []part
	cur := part{}
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n') + 1
		if n == 0 {
			n = len(b)
		}
		l := b[:n]
		if rest, ok := bytes.CutPrefix(l, []byte("---")); ok && len(bytes.TrimSpace(stripComment(rest))) == 0 {
			parts = append(parts, cur)
			cur = part{head: l, lines: bytes.Count(l, []byte("\n"))}
		} else {
			cur.body = append(cur.body, l...)
		}
		b = b[n:]
	}
	return append(parts, cur)
}

func stripComment(b []byte) []byte {
	before, _, _ := bytes.Cut(b, []byte{'#'})
	return before
}

func document(body []byte, o Options) ([]byte, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return body, nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var root yaml.Node
	if err := dec.Decode(&root); errors.Is(err, io.EOF) {
		return body, nil // comments alone
	} else if err != nil {
		return nil, err
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 {
		return body, nil
	}
	if changed, err := object(root.Content[0], o); err != nil || !changed {
		return body, err
	}
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		// Tools take what begins so for JSON, which quotes every name.
		asJSON(root.Content[0])
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&root); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// templates are the paths of the Pod in each kind that has one.
var templates = map[string][]string{
	"Pod":                   {},
	"PodTemplate":           {"template"},
	"ReplicationController": {"spec", "template"},
	"ReplicaSet":            {"spec", "template"},
	"Deployment":            {"spec", "template"},
	"StatefulSet":           {"spec", "template"},
	"DaemonSet":             {"spec", "template"},
	"Job":                   {"spec", "template"},
	"CronJob":               {"spec", "jobTemplate", "spec", "template"},
}

// object injects into an object, or into the items of a List. It reports
// whether there was a Pod to inject into.
func object(n *yaml.Node, o Options) (bool, error) {
	if n.Kind != yaml.MappingNode {
		return false, nil
	}
	kind := text(get(n, "kind"))
	if items := get(n, "items"); kind == "List" && items != nil && items.Kind == yaml.SequenceNode {
		changed := false
		for _, item := range items.Content {
			c, err := object(item, o)
			if err != nil {
				return false, err
			}
			changed = changed || c
		}
		return changed, nil
	}
	path, ok := templates[kind]
	if !ok {
		return false, nil
	}
	changed, err := false, error(nil)
	pod := n
	for _, step := range path {
		if pod = get(pod, step); pod == nil {
			err = fmt.Errorf("there is no %s", step)
			break
		}
	}
	if err == nil {
		changed, err = injectPod(pod, o)
	}
	if err != nil {
		return false, fmt.Errorf("%s %s: %w", kind, text(get(get(n, "metadata"), "name")), err)
	}
	return changed, nil
}

func injectPod(pod *yaml.Node, o Options) (bool, error) {
	if pod.Kind != yaml.MappingNode {
		return false, errors.New("expected a template of Pods")
	}
	said := text(get(get(get(pod, "metadata"), "annotations"), mesh.SidecarAnnotation))
	if said != "" && said != mesh.SidecarInjected {
		return false, nil
	}
	spec := get(pod, "spec")
	if spec == nil || spec.Kind != yaml.MappingNode {
		return false, errors.New("there is no spec")
	}
	if text(get(spec, "hostNetwork")) == "true" {
		return false, errors.New("a Pod on the host's network cannot have a sidecar: its connections are the host's")
	}
	var added addition
	if err := added.read(o); err != nil {
		return false, err
	}
	meta, err := child(pod, "metadata", yaml.MappingNode)
	if err != nil {
		return false, err
	}
	annotations, err := child(meta, "annotations", yaml.MappingNode)
	if err != nil {
		return false, err
	}
	set(annotations, mesh.SidecarAnnotation, scalar(mesh.SidecarInjected))
	inits, err := child(spec, "initContainers", yaml.SequenceNode)
	if err != nil {
		return false, err
	}
	// First, so that the workload's own init containers find the mesh.
	for _, c := range slices.Backward(added.InitContainers) {
		upsert(inits, c, 0)
	}
	volumes, err := child(spec, "volumes", yaml.SequenceNode)
	if err != nil {
		return false, err
	}
	for _, v := range added.Volumes {
		upsert(volumes, v, len(volumes.Content))
	}
	return true, nil
}
