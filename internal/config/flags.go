package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Flags adds a flag for each field of c to set. The flags' defaults are what c
// says, and a flag that is given is written to c at once; so read the file
// before the flags are parsed, or call [Replay] after it.
func (c *Configuration) Flags(set *pflag.FlagSet) {
	addFlags(set, reflect.ValueOf(c).Elem(), "")
	addAliases(set, c)
}

// Replay writes the flags that the user gave to c once more, so that they win
// over a file that was read after they were parsed.
func Replay(set *pflag.FlagSet, given map[string]string) error {
	for name, value := range given {
		if f := set.Lookup(name); f != nil {
			if list, ok := f.Value.(interface{ reset() }); ok {
				list.reset()
			}
			if err := f.Value.Set(value); err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
		}
	}
	return nil
}

// Given returns the flags that the user gave, with their values as text. One
// given by another name is returned by its own.
func Given(set *pflag.FlagSet) map[string]string {
	given := map[string]string{}
	set.Visit(func(f *pflag.Flag) {
		if of := f.Annotations[aliasOf]; len(of) > 0 {
			f = set.Lookup(of[0])
		}
		given[f.Name] = f.Value.String()
	})
	return given
}

func addFlags(set *pflag.FlagSet, v reflect.Value, prefix string) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name, short, _ := strings.Cut(field.Tag.Get("flag"), ",")
		if name == "-" {
			continue
		}
		if name == "" {
			json, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			name = prefix + dashed(json)
		}
		usage, leaf := field.Tag.Lookup("usage")
		if !leaf {
			addFlags(set, v.Field(i), name+"-")
			continue
		}
		set.VarPF(&value{v: v.Field(i)}, name, short, usage).NoOptDefVal = noOptDefault(v.Field(i))
	}
}

// FlagName returns the name of a field's flag, without the dashes before it:
// "dns-listen" of "dns.listen".
func FlagName(field string) string {
	return dashed(strings.ReplaceAll(field, ".", "-"))
}

func noOptDefault(v reflect.Value) string {
	if v.Kind() == reflect.Bool {
		return "true"
	}
	return ""
}

// dashed turns nodeName into node-name, strictARP into strict-arp and
// serviceCIDRs into service-cidrs.
func dashed(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 && name[i-1] != '-' && !unicode.IsUpper(rune(name[i-1])) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// value makes a field of the configuration a flag's value.
type value struct {
	v     reflect.Value
	given bool
}

// reset has what is set next replace what there is.
func (f *value) reset() { f.given = false }

// Type implements [pflag.Value].
func (f *value) Type() string {
	switch f.v.Interface().(type) {
	case metav1.Duration:
		return "duration"
	}
	switch f.v.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Bool:
		return "bool"
	case reflect.Uint32, reflect.Int32:
		return "number"
	}
	return "string"
}

// String implements [pflag.Value].
func (f *value) String() string {
	if f.v.Kind() != reflect.Slice {
		return text(f.v)
	}
	parts := make([]string, f.v.Len())
	for i := range parts {
		parts[i] = text(f.v.Index(i))
	}
	return strings.Join(parts, ",")
}

// Set implements [pflag.Value]. A list is separated by commas, and a flag that is given
// again adds to it.
func (f *value) Set(s string) error {
	if f.v.Kind() != reflect.Slice {
		return parse(f.v, s)
	}
	list := reflect.MakeSlice(f.v.Type(), 0, 1)
	if f.given {
		list = reflect.AppendSlice(list, f.v)
	}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		item := reflect.New(f.v.Type().Elem()).Elem()
		if err := parse(item, part); err != nil {
			return err
		}
		list = reflect.Append(list, item)
	}
	f.v.Set(list)
	f.given = true
	return nil
}

func text(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case metav1.Duration:
		return x.Duration.String()
	case encoding.TextMarshaler:
		b, _ := x.MarshalText()
		return string(b)
	}
	return fmt.Sprint(v.Interface())
}

func parse(v reflect.Value, s string) error {
	var err error
	switch x := v.Addr().Interface().(type) {
	case *metav1.Duration:
		err = x.UnmarshalJSON([]byte(strconv.Quote(s)))
	case encoding.TextUnmarshaler:
		err = x.UnmarshalText([]byte(s))
	default:
		err = parseKind(v, s)
	}
	if want := expectation(v.Type()); err != nil && want != "" {
		return fmt.Errorf("expected %s, found %q", want, s)
	}
	return err
}

func parseKind(v reflect.Value, s string) error {
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return err
		}
		v.SetBool(b)
	case reflect.Uint32:
		n, err := strconv.ParseUint(s, 0, 32)
		if err != nil {
			return err
		}
		v.SetUint(n)
	case reflect.Int32:
		n, err := strconv.ParseInt(s, 0, 32)
		if err != nil {
			return err
		}
		v.SetInt(n)
	default:
		return fmt.Errorf("a flag cannot hold a %v", v.Type())
	}
	return nil
}
