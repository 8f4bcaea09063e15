package source

import (
	"encoding/base64"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/json"

	"github.com/sluicenet/sluice/model"
)

// Object is an object of the model and where it was read.
type Object struct {
	Key   model.Key
	Kind  *Kind
	Value Value
	Line  int // of the stream, counted from 1
	// API is the object as the API has it, with what Value leaves out.
	// Several objects share it where one Endpoints made them.
	API runtime.Object
}

// maxProblems is how many mistakes of one document are told.
const maxProblems = 10

// Decode reads a stream of YAML or JSON: several documents, List objects, and
// for Secrets, Services and so on what the API server would make of them. It
// is strict: an unknown field, a key that is there twice and a wrong type are
// problems. A document with a problem that is more than a warning gives no
// objects; the others are not affected.
func Decode(stream []byte) ([]Object, []Problem) {
	var objects []Object
	var problems []Problem
	for _, doc := range Split(stream) {
		o, p := doc.Decode()
		objects = append(objects, o...)
		problems = append(problems, p...)
	}
	return objects, problems
}

// Decode reads one document; see the function [Decode]. Of Services the labels of the
// given names are kept, too.
func (d Document) Decode(labels ...string) ([]Object, []Problem) {
	dec := &decoder{offset: d.Line - 1, labels: labels}
	nodes, err := parse(d.Text)
	if err != nil {
		p := Problem{Line: d.Line, Reason: ReasonParse, Err: err}
		if syntax, ok := errors.AsType[*syntaxError](err); ok && syntax.line > 0 {
			p.Line = dec.offset + syntax.line
		}
		return nil, []Problem{p}
	}
	for _, n := range nodes {
		dec.document(n, 0)
	}
	return dec.objects, dec.problems
}

type decoder struct {
	offset   int      // what to add to a node's line
	labels   []string // see [Kind.Convert]
	objects  []Object
	problems []Problem
}

// document reads one API object, or a List of them.
func (d *decoder) document(root *yaml.Node, depth int) {
	root = resolve(root)
	problem := Problem{Line: root.Line + d.offset, Reason: ReasonParse}
	fail := func(format string, args ...any) {
		problem.Err = fmt.Errorf(format, args...)
		d.problems = append(d.problems, problem)
	}
	if root.Kind != yaml.MappingNode {
		fail("a document must be a mapping with apiVersion and kind")
		return
	}
	apiVersion, name := text(root, "apiVersion"), text(root, "kind")
	switch {
	case name == "":
		fail("kind: is missing, must be the kind of an API object")
		return
	case apiVersion == "":
		fail("apiVersion: is missing, must be the API's group and version of %s", name)
		return
	}
	group, version, found := strings.Cut(apiVersion, "/")
	if !found {
		group, version = "", apiVersion // of the core group
	}
	if items := child(root, "items"); strings.HasSuffix(name, "List") && items != nil && items.Kind == yaml.SequenceNode {
		if depth > 0 {
			fail("a List must not hold Lists")
			return
		}
		for _, item := range items.Content {
			d.document(item, depth+1)
		}
		return
	}
	kind, versionOK := lookup(group, version, name)
	namespace := text(root, "metadata", "namespace")
	if kind == nil {
		problem.Reason, problem.Warning = ReasonIgnored, true
		problem.Object = name + " " + strings.TrimPrefix(namespace+"/"+text(root, "metadata", "name"), "/")
		fail("left alone, %s of %s is no kind that sluice reads", name, apiVersion)
		return
	}
	if namespace == "" && kind.Namespaced {
		namespace = metav1.NamespaceDefault
	}
	if key := (model.Key{Kind: kind.ID, Namespace: namespace, Name: text(root, "metadata", "name")}); key.Name != "" {
		problem.Key, problem.HasKey = key, kind.Name == key.Kind.String()
		problem.Object = kind.Name + " " + strings.TrimPrefix(namespace+"/"+key.Name, "/")
	}
	if !versionOK {
		problem.Reason = ReasonVersion
		fail("apiVersion: must be %s, found %q", strings.TrimPrefix(group+"/"+kind.Versions[0], "/"), apiVersion)
		return
	}
	d.object(kind, root, problem)
}

func lookup(group, version, name string) (kind *Kind, versionOK bool) {
	for _, k := range kinds {
		if k.Group == group && k.Name == name {
			return k, slices.Contains(k.Versions, version)
		}
	}
	return nil, false
}

// object decodes, checks and converts one object. problem says what is known
// of it already.
func (d *decoder) object(kind *Kind, root *yaml.Node, problem Problem) {
	problem.Reason = ReasonInvalid
	var failed bool
	report := func(e FieldError) {
		p := problem
		p.Line, p.Err, p.Warning = lineOf(root, e.Field)+d.offset, e, e.Warning
		failed = failed || !e.Warning
		d.problems = append(d.problems, p)
	}
	api := kind.New()
	for i, e := range unmarshal(root, api) {
		if i < maxProblems {
			report(e)
		}
	}
	if failed {
		return
	}
	for _, e := range checkMeta(kind, api) {
		report(e)
	}
	if failed {
		return
	}
	values, errs := kind.Convert(api, d.labels...)
	for i, e := range errs {
		if i < maxProblems {
			report(e)
		}
	}
	if failed {
		return
	}
	for _, v := range values {
		d.objects = append(d.objects, Object{
			Key:  model.Key{Kind: kind.ID, Namespace: v.GetNamespace(), Name: v.GetName()},
			Kind: kind, Value: v, Line: root.Line + d.offset, API: api,
		})
	}
}

// unmarshal decodes a node into an API object, strictly.
func unmarshal(root *yaml.Node, into runtime.Object) []FieldError {
	var w jsonWriter
	if err := w.write(root, 0); err != nil {
		if bad, ok := errors.AsType[*nodeError](err); ok {
			path, _ := pathOf(root, bad.node)
			return []FieldError{{Field: path, Found: bad.msg}}
		}
		return []FieldError{{Found: err.Error()}}
	}
	strict, err := json.UnmarshalStrict(w.buf.Bytes(), into)
	if err != nil {
		if found := protoMistakes(w.buf.Bytes(), into); len(found) > 0 {
			return found
		}
		return []FieldError{typeError(&w, root, into, err)}
	}
	var out []FieldError
	for _, e := range strict {
		fe := FieldError{Found: e.Error()}
		if at, ok := errors.AsType[json.FieldError](e); ok {
			fe = FieldError{Field: at.FieldPath(), Found: "unknown field"}
			if strings.Contains(e.Error(), "duplicate field") {
				fe.Found = "is there twice"
			}
		}
		out = append(out, fe)
	}
	return append(out, protoMistakes(w.buf.Bytes(), into)...)
}

// typeError says which field has the wrong type. The strict decoder's error
// tells an offset in a type that it keeps to itself; the standard decoder finds
// the same one.
func typeError(w *jsonWriter, root *yaml.Node, into runtime.Object, err error) FieldError {
	scratch := into.DeepCopyObject()
	if bad, ok := errors.AsType[*stdjson.UnmarshalTypeError](stdjson.Unmarshal(w.buf.Bytes(), scratch)); ok && bad.Struct != "" {
		if n := w.nodeAt(bad.Offset); n != nil {
			if path, ok := pathOf(root, n); ok {
				found := bad.Value
				if n.Kind == yaml.ScalarNode {
					found = show(n.Value) + quoteHint(n, bad.Value)
				}
				return FieldError{Field: path, Expected: "of type " + typeName(bad), Found: found}
			}
		}
	}
	if _, secret := into.(*corev1.Secret); secret {
		if data := child(root, "data"); data != nil && data.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(data.Content); i += 2 {
				if _, err := base64.StdEncoding.DecodeString(resolve(data.Content[i+1]).Value); err != nil {
					return FieldError{Field: join("data", data.Content[i].Value), Expected: "in base64; stringData takes plain text", Found: "something else"}
				}
			}
		}
	}
	return FieldError{Found: strings.TrimPrefix(err.Error(), "json: ")}
}

// quoteHint says why a bare word is not the text that it looks like.
func quoteHint(n *yaml.Node, found string) string {
	plain := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch {
	case !plain:
		return ""
	case found == "bool":
		return ", which YAML takes for true or false unless it is in quotes"
	case strings.HasPrefix(found, "number"):
		return ", which YAML takes for a number unless it is in quotes"
	}
	return ""
}

func typeName(e *stdjson.UnmarshalTypeError) string {
	switch s := e.Type.Kind().String(); {
	case strings.HasPrefix(s, "int"), strings.HasPrefix(s, "uint"):
		return "integer"
	case s == "struct", s == "map":
		return "object"
	case s == "slice", s == "array":
		return "list"
	default:
		return s
	}
}

// checkMeta checks an object's metadata as the API server does, and fills in
// the namespace.
func checkMeta(kind *Kind, obj runtime.Object) []FieldError {
	m, ok := obj.(metav1.Object)
	if !ok {
		return []FieldError{{Field: "metadata", Expected: "an object's metadata"}}
	}
	var f findings
	isDNSLabel := kind.ID == model.KindService || kind.ID == model.KindNamespace
	switch name := m.GetName(); {
	case name == "":
		f.missing("metadata.name", "the object's name")
	case isDNSLabel && len(validation.IsDNS1123Label(name)) > 0:
		f.bad("metadata.name", "a DNS label: lower case letters, digits and '-'", name)
	case len(validation.IsDNS1123Subdomain(name)) > 0:
		f.bad("metadata.name", "a DNS name: lower case letters, digits, '-' and '.'", name)
	}
	switch ns := m.GetNamespace(); {
	case !kind.Namespaced && ns != "":
		f.bad("metadata.namespace", "absent, since "+kind.Name+" is not namespaced", ns)
	case kind.Namespaced && ns == "":
		m.SetNamespace(metav1.NamespaceDefault)
	case kind.Namespaced && len(validation.IsDNS1123Label(ns)) > 0:
		f.bad("metadata.namespace", "a DNS label: lower case letters, digits and '-'", ns)
	}
	return f.errs
}
