package main

import "testing"

func TestParsePerf(t *testing.T) {
	p, err := parsePerf([]byte(`DNS Performance Testing Tool
> NOERROR host-1.example A 0.000087
> NXDOMAIN nx-1.example A 0.000187
> T 12

Statistics:

  Queries sent:         3
  Queries completed:    2 (66.67%)
  Queries lost:         1 (33.33%)

  Queries per second:   12345.678900
`))
	if err != nil {
		t.Fatal(err)
	}
	if p.answered != 2 || p.lost != 1 || p.rate != 12345.6789 || len(p.took) != 2 || p.quantile(0) != 87 || p.quantile(0.99) != 187 {
		t.Errorf("%+v", p)
	}
	if _, err := parsePerf([]byte("nothing\n")); err == nil {
		t.Error("no answers are no error")
	}
}

func TestSummary(t *testing.T) {
	got := summary([]result{
		{Server: "sluice", Queries: "cached", CPU: 8, PacedCPU: 30, P99: 100}, {Server: "other", Queries: "cached", CPU: 40, PacedCPU: 60, P99: 400},
		{Server: "sluice", Queries: "equal", Coalesced: 1}, {Server: "sluice", Queries: "miss", CPU: 50},
		{Server: "sluice", Queries: "cached", CPU: 10, PacedCPU: 30, P99: 900}, {Server: "other", Queries: "cached", CPU: 32, PacedCPU: 60, P99: 600},
		{Server: "sluice", Queries: "cached", CPU: 9, PacedCPU: 30, P99: 200}, {Server: "other", Queries: "cached", CPU: 36, PacedCPU: 60, P99: 500},
	})
	const want = `medians, and ours as a share of them
queries   server        CPU µs          paced µs            p99 µs       
cached    sluice           9.0   1.00       30.0   1.00      200.0   1.00
cached    other           36.0   0.25       60.0   0.50      500.0   0.40
miss      sluice          50.0   1.00
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
