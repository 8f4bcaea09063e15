package sysctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

func TestSettings(t *testing.T) {
	defaults := Conntrack{MaxPerCore: 32768, Min: 131072, TCPEstablishedTimeout: 24 * time.Hour, TCPCloseWaitTimeout: time.Hour}
	for _, test := range []struct {
		name string
		c    Conntrack
		cpus int
		want string
	}{
		{"nothing", Conntrack{Min: 131072}, 4, ""},
		{"least", defaults, 2, "nf_conntrack_max>=131072 hashsize>=32768 nf_conntrack_tcp_timeout_established=86400 nf_conntrack_tcp_timeout_close_wait=3600"},
		{"scaled", Conntrack{MaxPerCore: 32768, Min: 131072}, 8, "nf_conntrack_max>=262144 hashsize>=65536"},
		{"bounded", Conntrack{MaxPerCore: 32768, Min: 131072}, 256, "nf_conntrack_max>=1048576 hashsize>=262144"},
		{"asked for", Conntrack{MaxPerCore: 1, Min: 1 << 21}, 2, "nf_conntrack_max>=2097152 hashsize>=524288"},
		{"timeouts", Conntrack{TCPBeLiberal: true, UDPTimeout: 1500 * time.Millisecond, UDPStreamTimeout: time.Minute}, 2,
			"nf_conntrack_tcp_be_liberal=1 nf_conntrack_udp_timeout=1 nf_conntrack_udp_timeout_stream=60"},
	} {
		var got []string
		for _, s := range test.c.Settings(test.cpus) {
			sign := "="
			if s.Raise {
				sign = ">="
			}
			got = append(got, fmt.Sprintf("%s%s%d", filepath.Base(s.Path), sign, s.Value))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %s, want %s", test.name, strings.Join(got, " "), test.want)
		}
	}
}

// TestFiles checks what is written and what is not, in a directory.
func TestFiles(t *testing.T) {
	root := t.TempDir()
	file := func(path string, content string) string {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	limit := file(dir+"nf_conntrack_max", "262144\n")
	hash := file(hashsize, "65536\n")
	timeout := file(dir+"nf_conntrack_tcp_timeout_established", "432000\n")
	c := Conntrack{MaxPerCore: 1, Min: 131072, TCPEstablishedTimeout: time.Hour, UDPTimeout: time.Minute}
	changed, warnings, err := Applier{Root: root}.Apply(c.Settings(2))
	var missing *MissingError
	if !errors.As(err, &missing) || filepath.Base(missing.Path) != "nf_conntrack_udp_timeout" || warnings != nil {
		t.Errorf("errors: %v, %v", err, warnings)
	}
	if len(changed) != 1 || changed[0].Before != 432000 || changed[0].Value != 3600 {
		t.Errorf("changed: %+v", changed)
	}
	for path, want := range map[string]string{limit: "262144", hash: "65536", timeout: "3600"} {
		if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s has %s, want %s (%v)", path, b, want, err)
		}
	}
	changed, _, err = Applier{Root: root}.Apply(Conntrack{MaxPerCore: 1, Min: 524288}.Settings(2))
	if err != nil || len(changed) != 2 || changed[1].Value != 131072 {
		t.Errorf("a raise: %+v, %v", changed, err)
	}
}

// TestKernel sets timeouts of a network namespace, and fails to set there what
// belongs to all of them.
func TestKernel(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node1")
	if err := node.Do(func() error {
		_, err := os.Stat("/" + dir + "nf_conntrack_udp_timeout")
		return err
	}); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("no connection tracking here: %v", err)
	}
	a := Applier{Do: node.Do}
	c := Conntrack{TCPEstablishedTimeout: 1234 * time.Second, TCPBeLiberal: true, UDPStreamTimeout: 99 * time.Second}
	changed, warnings, err := a.Apply(c.Settings(2))
	if err != nil || warnings != nil || len(changed) != 3 {
		t.Fatalf("%+v, %v, %v", changed, warnings, err)
	}
	for name, want := range map[string]string{"nf_conntrack_tcp_timeout_established": "1234", "nf_conntrack_tcp_be_liberal": "1", "nf_conntrack_udp_timeout_stream": "99"} {
		out, err := node.Command(t.Context(), "cat", "/"+dir+name).Output()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s is %s, want %s (%v)", name, out, want, err)
		}
	}
	if changed, _, err := a.Apply(c.Settings(2)); err != nil || len(changed) != 0 {
		t.Errorf("again: %+v, %v", changed, err)
	}
	_, warnings, err = a.Apply(Conntrack{MaxPerCore: 1, Min: 1 << 30}.Settings(2))
	var readOnly *ReadOnlyError
	if !errors.As(err, &readOnly) || !strings.Contains(err.Error(), "run privileged") {
		t.Errorf("a value of all namespaces: %v", err)
	}
	if !errors.As(warnings, &readOnly) || !strings.Contains(warnings.Error(), "hashsize=268435456") {
		t.Errorf("the hash table of all namespaces: %v", warnings)
	}
}

func TestCPUs(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-1,4,6-7": 5} {
		if got, err := countCPUs(list); err != nil || got != want {
			t.Errorf("%s: %d, %v", list, got, err)
		}
	}
	for _, list := range []string{"", "x", "3-1", "0-", "1,", "0-65535,0-65535"} {
		if _, err := countCPUs(list); err == nil {
			t.Errorf("%q is accepted", list)
		}
	}
	if CPUs() < 1 {
		t.Error("no CPUs")
	}
}

func FuzzCPUs(f *testing.F) {
	f.Add("0-3,8")
	f.Fuzz(func(t *testing.T, list string) {
		if n, err := countCPUs(list); err == nil && (n < 1 || n > maxCPUs) {
			t.Errorf("%q: %d CPUs", list, n)
		}
	})
}
