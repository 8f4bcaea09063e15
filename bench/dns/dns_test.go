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
