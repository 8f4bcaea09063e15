package main

import "testing"

func TestParsePerf(t *testing.T) {
	p, err := parsePerf([]byte(`DNS Performance Testing Tool
Statistics:

  Queries sent:         3
  Queries completed:    2 (66.67%)
  Queries lost:         1 (33.33%)

  Queries per second:   12345.678900
`))
	if err != nil {
		t.Fatal(err)
	}
	if p.answered != 2 || p.lost != 1 || p.rate != 12345.6789 {
		t.Errorf("%+v", p)
	}
	if _, err := parsePerf([]byte("nothing\n")); err == nil {
		t.Error("no answers are no error")
	}
}

func TestSummary(t *testing.T) {
	got := summary([]result{
		{Server: "sluice", Queries: "cached", CPU: 8}, {Server: "other", Queries: "cached", CPU: 40},
		{Server: "sluice", Queries: "equal", Coalesced: 1}, {Server: "sluice", Queries: "miss", CPU: 50},
		{Server: "sluice", Queries: "cached", CPU: 10}, {Server: "other", Queries: "cached", CPU: 32},
		{Server: "sluice", Queries: "cached", CPU: 9}, {Server: "other", Queries: "cached", CPU: 36},
	})
	const want = `medians, and ours as a share of them
queries   server        CPU µs       
cached    sluice           9.0   1.00
cached    other           36.0   0.25
miss      sluice          50.0   1.00
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
