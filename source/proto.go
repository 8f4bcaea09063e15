package source

import (
	"encoding/json"
	"reflect"
	"sort"
	"strconv"

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

// unknownProtoFields finds the fields of spec that the API does not have. The
// decoder that these kinds bring along ignores them.
func unknownProtoFields(object []byte, into runtime.Object) []FieldError {
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
	walkProto(tree.Spec, spec.ProtoReflect().Descriptor(), "spec", func(path string) {
		out = append(out, FieldError{Field: path, Found: "unknown field"})
	})
	return out
}

func walkProto(v any, d protoreflect.MessageDescriptor, at string, unknown func(path string)) {
	fields, ok := v.(map[string]any)
	if !ok || d == nil || d.FullName().Parent() == "google.protobuf" {
		return // a scalar, or a type with a JSON form of its own
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		field := d.Fields().ByJSONName(name)
		if field == nil {
			field = d.Fields().ByName(protoreflect.Name(name))
		}
		path := join(at, name)
		switch {
		case field == nil:
			unknown(path)
		case field.IsMap():
			values, ok := fields[name].(map[string]any)
			if !ok {
				continue
			}
			for key, value := range values {
				walkProto(value, field.MapValue().Message(), join(path, key), unknown)
			}
		case field.IsList():
			items, ok := fields[name].([]any)
			if !ok {
				continue
			}
			for i, item := range items {
				walkProto(item, field.Message(), path+"["+strconv.Itoa(i)+"]", unknown)
			}
		default:
			walkProto(fields[name], field.Message(), path, unknown)
		}
	}
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
