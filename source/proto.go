package source

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	istionetworking "istio.io/client-go/pkg/apis/networking/v1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// protoSpec returns the spec of the kinds whose spec is a protocol buffer.
func protoSpec(obj runtime.Object) (proto.Message, bool) {
	switch o := obj.(type) {
	case *istionetworking.VirtualService:
		return &o.Spec, true
	case *istionetworking.DestinationRule:
		return &o.Spec, true
	case *istiosecurity.PeerAuthentication:
		return &o.Spec, true
	}
	return nil, false
}

// protoMistakes finds the fields of spec that the API does not have, which the
// decoder of these kinds ignores, and names that are none of an enumeration's,
// whose place it does not tell.
func protoMistakes(object []byte, into runtime.Object) []FieldError {
	spec, ok := protoSpec(into)
	if !ok {
		return nil
	}
	var tree struct {
		Spec any `json:"spec"`
	}
	if err := json.Unmarshal(object, &tree); err != nil {
		return []FieldError{{Found: err.Error()}}
	}
	var out []FieldError
	walkProto(tree.Spec, spec.ProtoReflect().Descriptor(), "spec", func(e FieldError) { out = append(out, e) })
	return out
}

func walkProto(v any, d protoreflect.MessageDescriptor, at string, mistake func(FieldError)) {
	fields, ok := v.(map[string]any)
	if !ok || d == nil || d.FullName().Parent() == "google.protobuf" {
		return // a scalar, or a type with a JSON form of its own
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		field := d.Fields().ByJSONName(name)
		if field == nil {
			field = d.Fields().ByName(protoreflect.Name(name))
		}
		path := join(at, name)
		switch {
		case field == nil:
			mistake(FieldError{Field: path, Found: "unknown field"})
		case fields[name] == nil:
		case field.IsMap():
			values, ok := fields[name].(map[string]any)
			if !ok {
				mistake(FieldError{Field: path, Expected: "of type object", Found: typeOf(fields[name])})
				continue
			}
			for _, key := range slices.Sorted(maps.Keys(values)) {
				walkProto(values[key], field.MapValue().Message(), join(path, key), mistake)
			}
		case field.IsList():
			items, ok := fields[name].([]any)
			if !ok {
				mistake(FieldError{Field: path, Expected: "of type list", Found: typeOf(fields[name])})
				continue
			}
			for i, item := range items {
				walkProto(item, field.Message(), path+"["+strconv.Itoa(i)+"]", mistake)
			}
		case field.Enum() != nil:
			checkEnum(fields[name], field.Enum(), path, mistake)
		case field.Message() == nil:
			checkScalar(fields[name], field.Kind(), path, mistake)
		default:
			walkProto(fields[name], field.Message(), path, mistake)
		}
	}
}

// checkScalar finds a value that cannot be of a field's type. Numbers may be
// texts in the JSON of protocol buffers.
func checkScalar(v any, kind protoreflect.Kind, at string, mistake func(FieldError)) {
	_, text := v.(string)
	_, boolean := v.(bool)
	switch kind {
	case protoreflect.StringKind:
		if !text {
			mistake(FieldError{Field: at, Expected: "of type string", Found: typeOf(v)})
		}
	case protoreflect.BoolKind:
		if !boolean {
			mistake(FieldError{Field: at, Expected: "of type bool", Found: typeOf(v)})
		}
	case protoreflect.Int32Kind, protoreflect.Uint32Kind, protoreflect.Int64Kind, protoreflect.Uint64Kind:
		if _, number := v.(float64); !number && !text {
			mistake(FieldError{Field: at, Expected: "of type integer", Found: typeOf(v)})
		}
	}
}

// typeOf names the type of a value of JSON, and shows it if it is short.
func typeOf(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "list"
	case bool:
		return fmt.Sprintf("%t; a word that YAML takes for true or false is text in quotes", v)
	}
	return show(v)
}

func checkEnum(v any, d protoreflect.EnumDescriptor, at string, mistake func(FieldError)) {
	name, ok := v.(string)
	if !ok || d.Values().ByName(protoreflect.Name(name)) != nil {
		return
	}
	names := make([]string, 0, d.Values().Len())
	for i := range d.Values().Len() {
		names = append(names, string(d.Values().Get(i).Name()))
	}
	mistake(FieldError{Field: at, Expected: "one of " + strings.Join(names, ", "), Found: show(name)})
}

// Protocol buffers cache inside themselves, which reflect.DeepEqual takes for a
// difference.

func equalVirtualService(a, b Value) bool {
	x, y := a.(*istionetworking.VirtualService), b.(*istionetworking.VirtualService)
	return reflect.DeepEqual(&x.ObjectMeta, &y.ObjectMeta) && proto.Equal(&x.Spec, &y.Spec)
}

func equalDestinationRule(a, b Value) bool {
	x, y := a.(*istionetworking.DestinationRule), b.(*istionetworking.DestinationRule)
	return reflect.DeepEqual(&x.ObjectMeta, &y.ObjectMeta) && proto.Equal(&x.Spec, &y.Spec)
}

func equalPeerAuthentication(a, b Value) bool {
	x, y := a.(*istiosecurity.PeerAuthentication), b.(*istiosecurity.PeerAuthentication)
	return reflect.DeepEqual(&x.ObjectMeta, &y.ObjectMeta) && proto.Equal(&x.Spec, &y.Spec)
}
