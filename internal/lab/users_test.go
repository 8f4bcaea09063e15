package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseGrant(t *testing.T) {
	const file = `
# comment
alice:100000:65536
1001:300000:1000
bob:x:65536
bob:500000:0
bob:600000:7
alice:900000:1
eve:1:2:3
`
	for _, c := range []struct {
		name, uid string
		want      idRange
		ok        bool
	}{
		{"alice", "1000", idRange{100000, 65536}, true},
		{"carol", "1001", idRange{300000, 1000}, true},
		{"bob", "1002", idRange{600000, 7}, true},
		{"eve", "1003", idRange{}, false},
		{"dave", "1004", idRange{}, false},
	} {
		got, ok := parseGrant(strings.NewReader(file), c.name, c.uid)
		if got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %v", c.name, got, ok)
		}
	}
}

func FuzzParseGrant(f *testing.F) {
	f.Add("alice:100000:65536\n", "alice")
	f.Fuzz(func(t *testing.T, file, name string) {
		if got, ok := parseGrant(strings.NewReader(file), name, "0"); ok == (got.count == 0) {
			t.Errorf("%v, %v", got, ok)
		}
	})
}

func TestChoose(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(a, 0o755), os.Mkdir(b, 0o755),
		os.WriteFile(filepath.Join(a, "program"), nil, 0o755), os.Symlink(filepath.Join(a, "program"), link)); err != nil {
		t.Fatal(err)
	}
	from := []string{filepath.Join(dir, "missing"), a, b}
	for keep, want := range map[string]string{filepath.Join(a, "program"): b, link: b, dir: a} {
		if got, err := choose(from, []string{keep}); err != nil || got != want {
			t.Errorf("%s: %q, %v", keep, got, err)
		}
	}
	if got, err := choose(from[:2], []string{link}); err == nil {
		t.Errorf("%q covers a program", got)
	}
}
