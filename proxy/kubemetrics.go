package proxy

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/model"
)

// kubeMetrics are the metrics of kube-proxy 1.36 that mean something here, with
// its names, labels and buckets (pkg/proxy/metrics/metrics.go). The rules of both
// families are programmed in one step, whose duration counts for each family
// that it concerns.
type kubeMetrics struct {
	start time.Time // what was triggered before is none of this process's doing

	sync, full, partial *prometheus.HistogramVec
	programming         *prometheus.HistogramVec
	lastSync, lastQueue *prometheus.GaugeVec
	endpointsPending    prometheus.Gauge
	endpointsTotal      prometheus.Counter
	servicesPending     prometheus.Gauge
	servicesTotal       prometheus.Counter
	noLocal             *prometheus.GaugeVec
	reconcile           *prometheus.HistogramVec
	reconciled          *prometheus.CounterVec
	// failures of the engine and, in iptables, of steps after which all is
	// programmed; nil where kube-proxy's mode has no such metric.
	failures, partialFailures *prometheus.CounterVec
	// cleanups are failures to finish what was put off, which is removing what
	// nothing points at any more; nil likewise.
	cleanups *prometheus.CounterVec

	// triggered are the times of what is not in force yet. Like all that
	// follows, only Run's goroutine touches it.
	triggered []trigger
	drops     map[[2]string]int // ports that no_local_endpoints counts
}

// trigger is when something happened of which an EndpointSlice tells.
type trigger struct {
	at     time.Time
	family Family
}

const labelFamily = "ip_family"

// maxTriggered bounds what is remembered while the kernel cannot be programmed.
const maxTriggered = 1 << 16

func newKubeMetrics(start time.Time) *kubeMetrics {
	duration := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubeproxy_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{labelFamily})
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubeproxy_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubeproxy_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kubeproxy_" + name, Help: help})
	}
	return &kubeMetrics{
		start:   start,
		sync:    duration("sync_proxy_rules_duration_seconds", "Time to program the kernel, with all or with changes."),
		full:    duration("sync_full_proxy_rules_duration_seconds", "Time to program the kernel with all."),
		partial: duration("sync_partial_proxy_rules_duration_seconds", "Time to program the kernel with changes."),
		programming: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubeproxy_network_programming_duration_seconds",
			Help: "Time from the change of a Pod or Service until the kernel knows it.",
			Buckets: slices.Concat(
				prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59),
				prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7)),
		}, []string{labelFamily}),
		lastSync:         gauges("sync_proxy_rules_last_timestamp_seconds", "When the kernel last had all that was asked for.", labelFamily),
		lastQueue:        gauges("sync_proxy_rules_last_queued_timestamp_seconds", "When something last came to be programmed.", labelFamily),
		endpointsPending: gauge("sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that are not in force yet."),
		endpointsTotal:   counter("sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices."),
		servicesPending:  gauge("sync_proxy_rules_service_changes_pending", "Changes of Services that are not in force yet."),
		servicesTotal:    counter("sync_proxy_rules_service_changes_total", "Changes of Services."),
		noLocal: gauges("sync_proxy_rules_no_local_endpoints_total",
			"Ports of Services with a Local traffic policy and no endpoint on this node.", "traffic_policy", labelFamily),
		reconcile:  duration("conntrack_reconciler_sync_duration_seconds", "Time to find and delete stale UDP flows."),
		reconciled: familyCounter("conntrack_reconciler_deleted_entries_total", "Stale UDP flows that were deleted."),
		drops:      map[[2]string]int{},
	}
}

func familyCounter(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubeproxy_" + name, Help: help}, []string{labelFamily})
}

// forEngine adds what kube-proxy counts in the mode of that name.
func (m *kubeMetrics) forEngine(name string) {
	switch name {
	case "nftables":
		m.failures = familyCounter("sync_proxy_rules_nftables_sync_failures_total", "Failures to program the kernel.")
		m.cleanups = familyCounter("sync_proxy_rules_nftables_cleanup_failures_total", "Failures to verify the rules and to remove what is not used any more.")
	case "iptables":
		m.failures = familyCounter("sync_proxy_rules_iptables_restore_failures_total", "Failures to program the kernel.")
		m.partialFailures = familyCounter("sync_proxy_rules_iptables_partial_restore_failures_total",
			"Failures to program the kernel with changes, after which all is programmed.")
	case "ipvs":
		m.failures = familyCounter("sync_proxy_rules_iptables_restore_failures_total", "Failures to program the kernel.")
	}
}

func (m *kubeMetrics) collectors() []prometheus.Collector {
	all := []prometheus.Collector{
		m.sync, m.full, m.partial, m.programming, m.lastSync, m.lastQueue, m.endpointsPending, m.endpointsTotal,
		m.servicesPending, m.servicesTotal, m.noLocal, m.reconcile, m.reconciled,
	}
	for _, c := range []*prometheus.CounterVec{m.failures, m.partialFailures, m.cleanups} {
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

// kubeFamilies are what metrics with the label are for.
var kubeFamilies = [...]Family{IPv4, IPv6}

// familyLabel returns the family as Kubernetes writes it.
func familyLabel(f Family) string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

func (m *kubeMetrics) queued(at time.Time) {
	for _, f := range kubeFamilies {
		m.lastQueue.WithLabelValues(familyLabel(f)).Set(seconds(at))
	}
}

// planned counts the changes of an update.
func (m *kubeMetrics) planned(up model.Update, changes Changes) {
	for _, key := range up.Changed {
		switch key.Kind {
		case model.KindService:
			m.servicesTotal.Inc()
			m.servicesPending.Inc()
		case model.KindEndpointSlice:
			m.endpointsTotal.Inc()
			m.endpointsPending.Inc()
			m.trigger(up, key)
		}
	}
	for _, c := range changes.Services {
		m.countDrops(c.Old, -1)
		m.countDrops(c.New, 1)
	}
	for label, n := range m.drops {
		m.noLocal.WithLabelValues(label[0], label[1]).Set(float64(n))
	}
}

// trigger notes when what a slice tells happened. A slice that goes tells only of
// its last change before.
func (m *kubeMetrics) trigger(up model.Update, key model.Key) {
	slice, ok := model.EndpointSlices.Get(up.New, key.Namespace, key.Name)
	if !ok || !slice.Triggered.After(m.start) || len(m.triggered) == maxTriggered {
		return
	}
	if old, ok := model.EndpointSlices.Get(up.Old, key.Namespace, key.Name); ok && old.Triggered.Equal(slice.Triggered) {
		return
	}
	family := IPv4
	if slice.IPv6 {
		family = IPv6
	}
	m.triggered = append(m.triggered, trigger{slice.Triggered, family})
}

// countDrops counts the ports whose Local policy leaves connections unanswered.
func (m *kubeMetrics) countDrops(s *Service, n int) {
	if s == nil {
		return
	}
	for _, p := range s.Ports {
		internal, external := false, false
		for i := range p.Frontends {
			f := &p.Frontends[i]
			internal = internal || f.Kind == ClusterIP && f.Inside == Drop
			external = external || f.Kind != ClusterIP && f.Outside == Drop
		}
		if internal {
			m.drops[[2]string{"internal", familyLabel(p.Family)}] += n
		}
		if external {
			m.drops[[2]string{"external", familyLabel(p.Family)}] += n
		}
	}
}

// synced notes an attempt for the families that it concerns.
func (m *kubeMetrics) synced(full bool, changes []Change, took time.Duration, err error) {
	for _, f := range kubeFamilies {
		if !full && !concerns(changes, f) {
			continue
		}
		label := familyLabel(f)
		m.sync.WithLabelValues(label).Observe(took.Seconds())
		if full {
			m.full.WithLabelValues(label).Observe(took.Seconds())
		} else {
			m.partial.WithLabelValues(label).Observe(took.Seconds())
		}
		if err != nil && m.failures != nil {
			m.failures.WithLabelValues(label).Inc()
		}
		if err != nil && !full && m.partialFailures != nil {
			m.partialFailures.WithLabelValues(label).Inc()
		}
	}
}

// unverified notes that verification failed, which also cleans up.
func (m *kubeMetrics) unverified() {
	if m.cleanups == nil {
		return
	}
	for _, f := range kubeFamilies {
		m.cleanups.WithLabelValues(familyLabel(f)).Inc()
	}
}

// concerns reports whether one of the Services has a port of the family.
func concerns(changes []Change, family Family) bool {
	for _, c := range changes {
		for _, s := range [...]*Service{c.Old, c.New} {
			if s != nil && slices.ContainsFunc(s.Ports, func(p *Port) bool { return p.Family == family }) {
				return true
			}
		}
	}
	return false
}

// applied notes that all that came is in force.
func (m *kubeMetrics) applied(at time.Time) {
	for _, t := range m.triggered {
		m.programming.WithLabelValues(familyLabel(t.family)).Observe(at.Sub(t.at).Seconds())
	}
	m.triggered = m.triggered[:0]
	m.endpointsPending.Set(0)
	m.servicesPending.Set(0)
	for _, f := range kubeFamilies {
		m.lastSync.WithLabelValues(familyLabel(f)).Set(seconds(at))
	}
}

func (m *kubeMetrics) cleaned(f Family, d Reconciled) {
	m.reconcile.WithLabelValues(familyLabel(f)).Observe(d.Took.Seconds())
	m.reconciled.WithLabelValues(familyLabel(f)).Add(float64(d.Deleted))
}

// seconds returns a time as Prometheus has it.
func seconds(at time.Time) float64 { return float64(at.UnixNano()) / 1e9 }
