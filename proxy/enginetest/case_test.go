package enginetest

import (
	"slices"
	"strings"
	"testing"
)

// TestCases checks that the table is whole, and that nothing in it is passed over.
func TestCases(t *testing.T) {
	cases, err := Cases()
	must(t, err)
	if len(cases) < 150 {
		t.Errorf("the table has %d cases", len(cases))
	}
	seen := map[string]bool{}
	for _, c := range cases {
		if seen[c.Name] || c.Rule == "" {
			t.Errorf("%s:%d: case %q: named twice, or without a rule", c.File, c.Line, c.Name)
		}
		seen[c.Name] = true
		if _, err := config(c.Config); err != nil {
			t.Errorf("%s:%d: %v", c.File, c.Line, err)
		}
		if !slices.ContainsFunc(c.Steps, func(s Step) bool { return len(s.Probes) > 0 }) {
			t.Errorf("%s:%d: case %q probes nothing", c.File, c.Line, c.Name)
		}
	}
}

func TestParse(t *testing.T) {
	cases, err := parseCases("file", `
case one # two
rule here
config masquerade-all
service web ports=p:1-3/tcp>8080
probe a vip:81 tcp 6: b:8081=3 c from=kept stay=x
except ipvs: b because of that
then
probe client nodeport: refused
`)
	must(t, err)
	p := cases[0].Steps[0].Probes[0]
	if cases[0].Name != "one" || len(cases[0].Steps) != 2 || p.To != "vip:81" || !p.Share || p.From != "kept" || p.Stay != "x" ||
		!slices.Equal(p.Families, []int{6}) || !slices.Equal(p.Protocols, []string{"tcp"}) ||
		!slices.Equal(p.Expected, []Answer{{"b:8081", 3}, {"c:8080", 0}}) {
		t.Errorf("got %+v", cases[0])
	}
	if got := p.of("ipvs").Expected; !slices.Equal(got, []Answer{{"b:8080", 0}}) {
		t.Errorf("for ipvs %v are expected", got)
	}
	for text, want := range map[string]string{
		"probe a vip: b":                      "before the first case",
		"case x\nprobe a: b":                  "needs a client",
		"case x\nprobe a vip: nobody":         "nobody is called",
		"case x\nprobe a vip ftp: b":          "unknown word",
		"case x\nprobe a vip: from=node":      "no outcome",
		"case x\nexcept ipvs: b because":      "needs a probe",
		"case x\nprobe a vip: b\nexcept i: b": "needs a reason",
		"case x\nfrobnicate":                  "unknown directive",
	} {
		if _, err := parseCases("file", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestShares(t *testing.T) {
	want := []Answer{{"a", 3}, {"b", 1}}
	if err := shares(want, map[string]int{"a": 92, "b": 28}, 120); err != nil {
		t.Error(err)
	}
	if err := shares(want, map[string]int{"a": 60, "b": 60}, 120); err == nil {
		t.Error("equal shares pass for 3:1")
	}
}
