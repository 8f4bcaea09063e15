package proxy

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of reading traffic.
const (
	// trafficAge is how old counts may be: whoever asks more often costs no more.
	trafficAge = 2 * time.Second
	// trafficPatience is how long the kernel may take.
	trafficPatience = 5 * time.Second
	// maxTraffic is how many series there are of each metric.
	maxTraffic = 20_000
)

// TrafficMetrics are the connections, packets and bytes of each Service port, as
// far as an engine counts them: what it does not count has no series. They are
// read when somebody asks, and only what had traffic has series. It is a [prometheus.Collector].
type TrafficMetrics struct {
	counter Counter
	plan    func() *Plan
	log     *slog.Logger
	limit   int
	descs   []*prometheus.Desc // of connections, and of packets and bytes if these are counted
	dropped *prometheus.Desc

	mu sync.Mutex // guards all below
	// seen are the last counts of the frontends, and sums what they were in
	// total: the frontends of a port come and go, and its sum must not fall.
	seen map[FrontendKey]Traffic
	sums map[trafficKey]Traffic
	left int // series that are too many
	read time.Time
}

// trafficKey is what the labels of a series say.
type trafficKey struct {
	namespace, service string
	port               uint16
	protocol           Protocol
	kind               FrontendKind
}

// NewTrafficMetrics returns the metrics of what an engine counts of the plan that
// is in force. Plan may return nil.
func NewTrafficMetrics(counter Counter, plan func() *Plan, log *slog.Logger) *TrafficMetrics {
	labels := []string{"namespace", "service", "port", "protocol", "frontend"}
	desc := func(what, help string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_proxy_service_"+what+"_total", help+" of a Service port.", labels, nil)
	}
	descs := []*prometheus.Desc{desc("connections", "Connections")}
	if CountsBytes(counter) {
		descs = append(descs, desc("packets", "Packets"), desc("bytes", "Bytes"))
	}
	return &TrafficMetrics{
		counter: counter, plan: plan, log: log, limit: maxTraffic, descs: descs,
		dropped: prometheus.NewDesc("sluice_proxy_service_series_left_out",
			"Service ports with traffic that have no series, for there are too many.", nil, nil),
		seen: map[FrontendKey]Traffic{}, sums: map[trafficKey]Traffic{},
	}
}

// Describe implements [prometheus.Collector].
func (m *TrafficMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.descs {
		ch <- d
	}
	ch <- m.dropped
}

// frontendLabels are the values of the label frontend.
var frontendLabels = [...]string{ClusterIP: "ClusterIP", ExternalIP: "ExternalIP", LoadBalancer: "LoadBalancer", NodePort: "NodePort"}

// Collect implements [prometheus.Collector].
func (m *TrafficMetrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if plan := m.plan(); plan != nil && time.Since(m.read) >= trafficAge {
		if err := m.update(plan); err != nil {
			m.log.Warn("cannot read the traffic of Services", "error", err)
		}
		m.read = time.Now()
	}
	for key, t := range m.sums {
		counts := [...]uint64{t.Connections, t.Packets, t.Bytes}
		for i, d := range m.descs {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(counts[i]),
				key.namespace, key.service, strconv.Itoa(int(key.port)), key.protocol.String(), frontendLabels[key.kind])
		}
	}
	ch <- prometheus.MustNewConstMetric(m.dropped, prometheus.GaugeValue, float64(m.left))
}

// update reads what the kernel counts, and finds the Services of it in the plan:
// one pass over the plan is cheaper than an index that is kept for all.
func (m *TrafficMetrics) update(plan *Plan) error {
	ctx, cancel := context.WithTimeout(context.Background(), trafficPatience)
	defer cancel()
	now := map[FrontendKey]Traffic{}
	if err := m.counter.Count(ctx, func(key FrontendKey, t Traffic) { now[key] = t }); err != nil {
		return err
	}
	if len(now) == 0 {
		return nil
	}
	seen := make(map[FrontendKey]Traffic, len(now))
	sums := make(map[trafficKey]Traffic, len(m.sums))
	m.left = 0
	for s := range plan.Services() {
		for _, p := range s.Ports {
			for i := range p.Frontends {
				f := &p.Frontends[i]
				key := f.Key(p)
				label := trafficKey{s.Name.Namespace, s.Name.Name, p.Port, p.Protocol, f.Kind}
				sum, known := sums[label]
				if !known {
					sum, known = m.sums[label]
				}
				t, ok := now[key]
				switch {
				case ok && (known || len(sums) < m.limit):
					sums[label] = sum.plus(t.since(m.seen[key]))
					seen[key] = t
				case ok:
					m.left++
				case known:
					sums[label] = sum
				}
			}
		}
	}
	m.seen, m.sums = seen, sums
	return nil
}

// since returns what came since an earlier count. Counts that are lower than
// before began again.
func (t Traffic) since(before Traffic) Traffic {
	if t.Packets < before.Packets || t.Bytes < before.Bytes || t.Connections < before.Connections {
		return t
	}
	return Traffic{t.Connections - before.Connections, t.Packets - before.Packets, t.Bytes - before.Bytes}
}

func (t Traffic) plus(o Traffic) Traffic {
	return Traffic{t.Connections + o.Connections, t.Packets + o.Packets, t.Bytes + o.Bytes}
}
