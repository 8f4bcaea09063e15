package corefile

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sluicenet/sluice/internal/config"
)

var update = flag.Bool("update", false, "write the golden files")

// TestImport compares what comes of Corefiles, and what is said of them.
func TestImport(t *testing.T) {
	for _, name := range []string{"nodelocal.corefile", "nodelocal.configmap.yaml", "coredns.corefile", "pillars.corefile", "kubeadm.corefile"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			c, notes, err := Import(text, "")
			if err != nil {
				t.Fatal(err)
			}
			got, err := YAML(&c)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, "---\n"+Report(notes)...)
			// The ConfigMap has the same in it.
			golden := filepath.Join("testdata", strings.Replace(strings.TrimSuffix(name, filepath.Ext(name)), ".configmap", "", 1)+".golden")
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			loads(t, c)
		})
	}
}

// loads proves that a configuration is read as it was written, and is valid.
func loads(t *testing.T, c config.Configuration) {
	t.Helper()
	text, err := YAML(&c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	again := config.Default()
	if err := errors.Join(again.Load(path), again.Validate()); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	second, err := YAML(&again)
	if err != nil || string(second) != string(text) {
		t.Errorf("read again\n%s\nwant\n%s", second, text)
	}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	again.Flags(set)
	set.VisitAll(func(f *pflag.Flag) {
		if err := f.Value.Set(f.Value.String()); err != nil {
			t.Errorf("--%s does not take %q: %v", f.Name, f.Value, err)
		}
	})
}

// TestClusterZone finds the cluster's zone where nothing names it.
func TestClusterZone(t *testing.T) {
	for text, want := range map[string]string{
		". {\n forward . 10.0.0.1\n}":                         "cluster.local",
		". {\n kubernetes K8s.Example in-addr.arpa\n}":        "k8s.example",
		"a.example {\n forward . __PILLAR__CLUSTER__DNS__\n}": "a.example",
		"corp.example {\n forward . 10.9.0.9\n}\nk8s.example {\n forward . 10.0.0.1\n}\nin-addr.arpa {\n forward . 10.0.0.1\n}": "k8s.example",
	} {
		c, _, err := Import([]byte(text), "")
		if err != nil || c.Zone != want {
			t.Errorf("%q: %q, %v, want %q", text, c.Zone, err, want)
		}
	}
	if c, _, _ := Import([]byte(". {\n}"), "given.example."); c.Zone != "given.example" {
		t.Errorf("zone %q", c.Zone)
	}
}

// TestMistakesNameTheLine proves that what is no Corefile is told, with the line.
func TestMistakesNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "no server block",
		". {\n errors\n":                         "line 1: a brace is not closed",
		". {\n}\n}":                              "line 3: ",
		". {\n cache \"x\n}":                     "line 2: a quote has no end",
		".\nerrors":                              "line 2: expected a brace",
		". {\n {\n }\n}":                         "line 2: a brace opens nothing",
		"(a) {\n import a\n}\n. {\n import a\n}": "line 2: snippets import each other",
		"(a) {\n errors\n}\n. {\n import a 10.0.0.1\n}": "line 5: expected one snippet or file",
		". {\n errors\n}\na . {\n errors\n}":            "line 4: . of port 53 is served by the block of line 1 already",
		"kind: ConfigMap\ndata: {a: b}\n":               "no key Corefile",
		strings.Repeat("a {\n", 20):                     "more than 8 braces",
	} {
		if _, _, err := Import([]byte(text), ""); !errors.Is(err, errSyntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// FuzzImport proves that no text breaks an import, and that what comes of one is
// a configuration.
func FuzzImport(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, _, err := Import(text, "cluster.local")
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%v", err)
		}
	})
}

// TestDisable keeps nothing of what the cache is not to keep.
func TestDisable(t *testing.T) {
	for text, want := range map[string][]string{
		". {\n cache 30 {\n disable denial\n }\n forward . 10.0.0.1\n}":                                             {".=30s/0s"},
		". {\n forward . 10.0.0.1\n}\ncorp.example {\n cache 30 10 {\n disable success\n }\n forward . 10.0.0.2\n}": {"corp.example=0s/30s"},
	} {
		c, _, err := Import([]byte(text), "cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, z := range c.DNS.Cache.Zones {
			if z != ".=0s/0s" { // a block without a cache
				got = append(got, z)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, c.DNS.Cache.Zones, want)
		}
	}
}
