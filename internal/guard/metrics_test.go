package guard

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// others are the files with metrics that have the names of kube-proxy or of
// NodeLocal DNSCache, which follow their rules and not these.
var others = []string{"proxy/kubemetrics.go", "proxy/localhost/metrics.go", "proxy/healthcheck/health.go", "cmd/sluice/nodecache.go"}

// families returns the metrics that the sources declare by constants, also those
// of vectors that have no values yet. A package that makes up names of metrics
// has a test that lints them.
func families(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	var out []*dto.MetricFamily
	files := sources(t)
	linted := map[string]bool{} // folders
	for file, f := range files {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && strings.HasSuffix(sel.Sel.Name, "AndLint") {
				linted[path.Dir(file)] = true
			}
			return true
		})
	}
	for file, f := range files {
		if strings.HasSuffix(file, "_test.go") || slices.Contains(others, file) {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			kind, ok := kindOf(lit.Type)
			if !ok {
				return true
			}
			fields := map[string]string{}
			constant := true
			for _, e := range lit.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					if key, ok := kv.Key.(*ast.Ident); ok {
						value, known := text(kv.Value)
						fields[key.Name] = value
						constant = constant && (known || key.Name != "Name" && key.Name != "Help")
					}
				}
			}
			if !constant {
				if !linted[path.Dir(file)] {
					t.Errorf("%s: a metric has a name or help that is no constant, and no test of the package lints what it registers", file)
				}
				return true
			}
			// Those of kube-proxy are read by dashboards that exist.
			if !strings.HasPrefix(fields["Name"], "sluice_") && !strings.HasPrefix(fields["Name"], "kubeproxy_") {
				t.Errorf("%s: the name of a metric is %q, want one that begins with sluice_", file, fields["Name"])
			}
			if !strings.HasSuffix(fields["Help"], ".") && !strings.HasPrefix(fields["Help"], "1, ") {
				t.Errorf("%s: the help of %s is no sentence: %q", file, fields["Name"], fields["Help"])
			}
			out = append(out, &dto.MetricFamily{
				Name: new(fields["Name"]), Help: new(fields["Help"]), Type: &kind, Metric: []*dto.Metric{{}},
			})
			return true
		})
	}
	return out
}

// kindOf tells the type of metric that a prometheus.…Opts makes.
func kindOf(e ast.Expr) (dto.MetricType, bool) {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return 0, false
	}
	if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "prometheus" {
		return 0, false
	}
	kind, ok := map[string]dto.MetricType{
		"CounterOpts": dto.MetricType_COUNTER, "GaugeOpts": dto.MetricType_GAUGE, "HistogramOpts": dto.MetricType_HISTOGRAM,
	}[sel.Sel.Name]
	return kind, ok
}

// text evaluates a constant string, and reports whether it is one.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s, true
		}
	case *ast.BinaryExpr:
		x, first := text(e.X)
		y, second := text(e.Y)
		return x + y, first && second
	}
	return "", false
}

// TestMetrics holds the names of metrics to Prometheus' own rules. Collectors
// that make their metrics while they collect are linted by their own tests.
func TestMetrics(t *testing.T) {
	all := families(t)
	if len(all) < 10 {
		t.Errorf("found only %d metrics: does this test still read the sources?", len(all))
	}
	for _, file := range others {
		if sources(t)[file] == nil {
			t.Errorf("there is no %s any more", file)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(all).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	bad := &dto.MetricFamily{Name: new("sluice_things"), Help: new("Things."), Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{{}}}
	if problems, err := promlint.NewWithMetricFamilies([]*dto.MetricFamily{bad}).Lint(); err != nil || len(problems) == 0 {
		t.Errorf("a counter without _total: %v, %v", problems, err)
	}
}
