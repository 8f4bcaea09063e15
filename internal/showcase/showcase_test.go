package showcase

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/manifests/examples"
)

func TestShares(t *testing.T) {
	canary := map[string]float64{"v1": .9, "v2": .1}
	for _, c := range []struct {
		name   string
		counts map[string]int
		errs   []error
		want   string
	}{
		{"as expected", map[string]int{"v1": 905, "v2": 95}, nil, ""},
		{"at the bound", map[string]int{"v1": 947, "v2": 53}, nil, ""},
		{"never", map[string]int{"v1": 1000}, nil, "v1 is not within 853 and 947, v2 is not within 53 and 147"},
		{"evenly", map[string]int{"v1": 500, "v2": 500}, nil, "v1 is not within 853 and 947, v2 is not within 53 and 147"},
		{"somebody else", map[string]int{"v1": 900, "v2": 99, "v3": 1}, nil, "v3 answered"},
		{"a failure", map[string]int{"v1": 900, "v2": 99}, []error{errors.New("reset")}, "reset"},
		{"nothing", nil, nil, "nobody was asked"},
	} {
		got := ""
		if err := (tally{c.counts, c.errs}).shares(canary); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// One answer alone cannot be wrong, and certainty allows no other.
	if low, high := bounds(20, 1); low != 20 || high != 20 {
		t.Errorf("bounds(20, 1) = %d, %d", low, high)
	}
}

func TestCount(t *testing.T) {
	var asked atomic.Int64
	got := count(t.Context(), 100, func(context.Context) (string, error) {
		if n := asked.Add(1); n%10 == 0 {
			return "", errors.New("refused")
		}
		return "a", nil
	})
	if got.String() != "a 90, 10 failed" || asked.Load() != 100 {
		t.Errorf("%v after %d", got, asked.Load())
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	table := NewTable(&out)
	table.Section("Part %d", 1)
	for _, err := range []error{nil, errors.New("v2 is too rare")} {
		c := Check{"quotes", "90 % v1", func(context.Context) (string, error) { return "v1 95", err }}
		if err := table.Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	table.Summary(1500 * time.Millisecond)
	want := `
Part 1
  ok    quotes                                    90 % v1                               v1 95
  FAIL  quotes                                    90 % v1                               v1 95; v2 is too rare

1 of 2 lines as expected, in 2 s
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestParseDig(t *testing.T) {
	const answer = `;; Got answer:
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 4711
;; flags: qr aa rd ra; QUERY: 1, ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 1

;; ANSWER SECTION:
web.default.svc.cluster.local. 5 IN	A	10.96.0.9
web.default.svc.cluster.local. 5 IN	A	10.96.0.12
_http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local.
`
	got, err := parseDig(answer, "A")
	if want := []string{"10.96.0.12", "10.96.0.9"}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := parseDig(answer, "SRV"); err != nil || len(got) != 1 || got[0] != "0 100 80 web.default.svc.cluster.local." {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := parseDig(strings.Replace(answer, "NOERROR", "NXDOMAIN", 1), "A"); err != nil || len(got) != 1 || got[0] != "NXDOMAIN" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseDig(";; connection timed out; no servers could be reached\n", "A"); err == nil {
		t.Error("no answer is no error")
	}
}

// TestEdits checks that the edits fit the manifest that they are made for.
func TestEdits(t *testing.T) {
	b, err := fs.ReadFile(examples.Quickstart(), "canary.yaml")
	if err != nil {
		t.Fatal(err)
	}
	promoted := promote(string(b))
	if strings.Count(promoted, "weight: 100}") != 3 || strings.Count(promoted, "weight: 0}") != 3 || !strings.Contains(promoted, "externalName: quotes-v2.") {
		t.Errorf("promoted:\n%s", promoted)
	}
	back := rollBack(promoted)
	want := strings.NewReplacer("weight: 90}", "weight: 100}", "weight: 10}", "weight: 0}").Replace(string(b))
	if d := cmp.Diff(want, back); d != "" {
		t.Error(d)
	}
}

// TestFollow has a fake that follows an edit after 80 ms, and one that never does.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var edited atomic.Pointer[time.Time]
		after := func(lag time.Duration) *probe {
			return &probe{
				ask: func(context.Context) (string, error) {
					if at := edited.Load(); at != nil && time.Since(*at) > lag {
						return "v2", nil
					}
					return "v1", nil
				},
				old: func(who string) bool { return who == "v1" },
			}
		}
		quick, never := after(80*time.Millisecond), after(time.Hour)
		at, err := follow(t.Context(), []*probe{quick, never}, func() (time.Time, error) {
			now := time.Now()
			edited.Store(&now)
			return now, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := quick.result(at); err != nil || !strings.HasPrefix(got, "within 82.0 ms, ") {
			t.Errorf("%q, %v", got, err)
		}
		if got, err := never.result(at); err == nil {
			t.Errorf("%q for an edit that nothing follows", got)
		}
	})
}

func TestLoad(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer time.Duration // how long one takes
		fail   int64
		want   string
		bad    bool
	}{
		{"quick", time.Millisecond, 0, "0 of 400 failed, the slowest took 1 ms", false},
		// The rate does not wait for answers.
		{"slow", 100 * time.Millisecond, 0, "0 of 400 failed, the slowest took 100 ms", false},
		{"one failure", time.Millisecond, 7, "1 of 400 failed, the slowest took 1 ms", true},
		{"too slow", 2 * time.Second, 0, "0 of 32 failed, the slowest took 2000 ms", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64
				l := &load{ask: func(context.Context) (string, error) {
					time.Sleep(c.answer)
					if asked.Add(1) == c.fail {
						return "", errors.New("reset")
					}
					return "a", nil
				}}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second+time.Millisecond)
				defer cancel()
				l.run(ctx)
				if got, err := l.result(); got != c.want || (err != nil) != c.bad {
					t.Errorf("%q, %v", got, err)
				}
			})
		})
	}
}
