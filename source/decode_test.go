package source

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluicenet/sluice/model"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden decodes testdata/*.yaml and compares objects and problems with the
// golden file beside it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			objects, problems := Decode(in)
			var out bytes.Buffer
			for _, p := range problems {
				p.File = filepath.Base(file)
				fmt.Fprintf(&out, "%s: %s\n", p.Reason, p.Error())
			}
			for _, o := range objects {
				text, err := yaml.Marshal(o.Value)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, "--- line %d: %s\n%s", o.Line, o.Key, prune(text))
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("differs from %s; see with -update and git diff\n%s", golden, out.Bytes())
			}
		})
	}
}

// prune leaves out the empty fields of the model's types.
func prune(text []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		empty := false
		for _, e := range []string{": null", `: ""`, ": 0", ": false", ": {}", `: "0001-01-01T00:00:00Z"`} {
			empty = empty || bytes.HasSuffix(bytes.TrimSpace(line), []byte(e))
		}
		if !empty || bytes.HasPrefix(line, []byte("- ")) || bytes.Contains(line, []byte("eady")) || bytes.Contains(line, []byte("Serving")) || bytes.Contains(line, []byte("Weight")) {
			out.Write(line)
		}
	}
	return out.Bytes()
}

// TestTriggeredAloneIsNoChange proves that slices which differ in the time of
// their last change alone are taken for the same.
func TestTriggeredAloneIsNoChange(t *testing.T) {
	kind, _ := KindOf(model.KindEndpointSlice)
	slice := func(at string, address string) Value {
		values, errs := kind.Convert(&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "a", Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: at}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}},
		})
		if len(values) != 1 || len(errs) > 0 {
			t.Fatal(values, errs)
		}
		return values[0]
	}
	first := slice("2026-01-02T03:04:05.678Z", "10.0.0.1")
	if at := first.(*model.EndpointSlice).Triggered; !at.Equal(time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)) {
		t.Errorf("triggered at %v", at)
	}
	if !kind.Equal(first, slice("2026-01-02T03:04:06Z", "10.0.0.1")) || !kind.Equal(first, slice("soon", "10.0.0.1")) {
		t.Error("a new time is a change")
	}
	if kind.Equal(first, slice("2026-01-02T03:04:05.678Z", "10.0.0.2")) {
		t.Error("a new address is no change")
	}
}

// TestHostile proves that input made to cost more than its size does not.
func TestHostile(t *testing.T) {
	const size = 1 << 18
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	merges := "m0: &m0 {a: b}\n"
	for i := 1; i < 30; i++ {
		merges += fmt.Sprintf("m%d: &m%d {<<: [*m%d, *m%d]}\n", i, i, i-1, i-1)
	}
	const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
	for name, text := range map[string]string{
		"alias bomb":      head + bomb,
		"merge bomb":      head + merges,
		"alias of itself": head + "data: &d\n  a: *d\n",
		"merge of itself": head + "data: &d\n  <<: *d\n",
		"open brackets":   strings.Repeat("[", size),
		"open braces":     strings.Repeat("{", size),
		"JSON braces":     strings.Repeat(`{"a":`, size/5),
		"JSON brackets":   `{"a":` + strings.Repeat("[", size) + strings.Repeat("]", size) + "}",
		"dashes":          strings.Repeat("- ", size/2),
		"questions":       strings.Repeat("? ", size/2),
		"markers":         strings.Repeat("---\n", size/4),
		"comments":        strings.Repeat("#\n", size/2),
		"colons":          strings.Repeat("a: ", size/3),
		"a long key":      strings.Repeat("k", size) + ": 1",
		"a long line":     head + "data: {a: \"" + strings.Repeat("v", size) + "\"}",
		"many anchors":    strings.Repeat("- &a a\n", size/7),
		"tags":            strings.Repeat("!!a ", size/4),
		"quotes":          strings.Repeat("\"", size),
		"nulls":           strings.Repeat("\x00", size),
		"many items":      head + "data: [" + strings.Repeat("1,", size/2) + "1]",
		"nested lists":    "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan []Problem, 1)
			go func() {
				_, problems := Decode([]byte(text))
				done <- problems
			}()
			select {
			case problems := <-done:
				harmless := name == "markers" || name == "comments" || name == "a long line"
				if len(problems) == 0 && !harmless {
					t.Error("no problem")
				}
				for _, p := range problems {
					if len(p.Error()) > 1000 {
						t.Errorf("a message of %d bytes", len(p.Error()))
					}
				}
			case <-time.After(60 * time.Second):
				t.Fatal("still not done")
			}
		})
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string // "line:first word"
	}{
		{"", nil},
		{"# only a comment\n---\n---\n# and another\n", nil},
		{"a: 1", []string{"1:a:"}},
		{"a: 1\n---\nb: 2\n", []string{"1:a:", "2:---"}},
		{"---\na: 1\n--- # comment\nb: 2\n", []string{"1:---", "3:---"}},
		{"a: |\n  ---\n  x\n---x: 1\n", []string{"1:a:"}},
		{"a: 1\r\n---\r\nb: 2\r\n", []string{"1:a:", "2:---"}},
	} {
		var got []string
		for _, d := range Split([]byte(c.in)) {
			got = append(got, fmt.Sprintf("%d:%s", d.Line, strings.Fields(string(d.Text))[0]))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q gives %v, want %v", c.in, got, c.want)
		}
	}
}

// TestSameEitherWay proves that an object which was converted once converts to
// the same again, so that one which the API server filled in is no different
// from the manifest.
func TestSameEitherWay(t *testing.T) {
	in, err := os.ReadFile("testdata/routes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, _ := Decode(in)
	for _, o := range objects {
		text, err := yaml.Marshal(o.Value)
		if err != nil {
			t.Fatal(err)
		}
		again, problems := Decode(text)
		if len(problems) > 0 || len(again) != 1 || !o.Kind.Equal(o.Value, again[0].Value) {
			t.Errorf("%s: %v\n%s", o.Key, problems, text)
		}
	}
	if len(objects) == 0 {
		t.Error("no objects")
	}
}

func TestKindsTable(t *testing.T) {
	scheme := Scheme()
	for _, k := range Kinds() {
		for _, v := range k.Versions {
			obj, err := scheme.New(k.GVK(v))
			if err != nil {
				t.Fatal(err)
			}
			if reflect.TypeOf(obj) != reflect.TypeOf(k.New()) {
				t.Errorf("%s decodes into %T", k.GVK(v), obj)
			}
		}
		if _, ok := KindOf(k.ID); !ok {
			t.Errorf("%s is not found", k.Name)
		}
	}
}

// FuzzDecode looks for input that crashes, and checks what is promised of what
// comes out.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, d := range Split(in) {
			f.Add(d.Text)
		}
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":1e2}]}}`))
	f.Add([]byte("kind: &a Service\napiVersion: *a\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		objects, problems := Decode(in)
		for _, o := range objects {
			if o.Key.Name == "" || o.Value == nil || o.Value.GetName() != o.Key.Name || o.Value.GetNamespace() != o.Key.Namespace {
				t.Errorf("object without a name of its own: %v", o)
			}
			if o.Kind.Namespaced == (o.Key.Namespace == "") {
				t.Errorf("%s: wrong namespace", o.Key)
			}
			if !o.Kind.Equal(o.Value, o.Value) {
				t.Errorf("%s is not itself", o.Key)
			}
		}
		lines := 1 // YAML 1.1 has five kinds of line breaks
		for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			lines += bytes.Count(in, []byte(end))
		}
		for _, p := range problems {
			if p.Error() == "" || p.Line < 0 || p.Line > lines {
				t.Errorf("problem at line %d of %d: %s", p.Line, lines, p.Error())
			}
		}
	})
}
