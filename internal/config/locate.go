package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Locate returns the error of the first field of the JSON document that the type of
// into, a pointer to a struct, cannot hold: its path, what was expected and what was
// found. A decoder tells none of this for values that read their own text. Where
// every field can be held, it returns failed.
func Locate(doc []byte, into any, failed error) error {
	if path, err := locate(doc, reflect.TypeOf(into).Elem(), ""); err != nil && path != "" {
		return fmt.Errorf("%s: %w", path, err)
	}
	return failed
}

// locate returns the path of a value of type t in which something is wrong, and what.
func locate(raw json.RawMessage, t reflect.Type, path string) (string, error) {
	err := json.Unmarshal(raw, reflect.New(t).Interface())
	if err == nil {
		return "", nil
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if want := expectation(t); want != "" {
		return path, fmt.Errorf("expected %s, found %s", want, raw)
	}
	switch t.Kind() {
	case reflect.Struct:
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return path, fmt.Errorf("expected an object, found %s", raw)
		}
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if value, has := fields[name]; has && name != "-" {
				if at, err := locate(value, field.Type, strings.TrimPrefix(path+"."+name, ".")); err != nil {
					return at, err
				}
			}
		}
	case reflect.Slice:
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			return path, fmt.Errorf("expected a list, found %s", raw)
		}
		for i, item := range items {
			if at, err := locate(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return at, err
			}
		}
	}
	return path, fmt.Errorf("%w, found %s", err, raw)
}

// expectation says what a value of a type looks like; it is empty for a type that
// has no words for it.
func expectation(t reflect.Type) string {
	switch reflect.Zero(t).Interface().(type) {
	case metav1.Duration:
		return "a duration such as 10s"
	case netip.Prefix:
		return "a range such as 10.0.0.0/8"
	case netip.Addr:
		return "an address such as 10.0.0.1"
	case netip.AddrPort:
		return "ADDRESS:PORT"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Uint32, reflect.Int32:
		return "a number"
	case reflect.String:
		return "text"
	}
	return ""
}
