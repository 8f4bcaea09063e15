package healthcheck

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/proxy"
)

// Late is how long an update may wait for the kernel before the proxy counts as
// unhealthy: twice kube-proxy's default syncPeriod, as there.
const Late = time.Minute

// Health is the state of the proxy as load balancers ask for it. It implements
// the pages /healthz and /livez of kube-proxy, and is a [prometheus.Collector] of
// what it answered.
type Health struct {
	progress *proxy.Progress
	eligible func() bool
	late     time.Duration
	healthz  *prometheus.CounterVec
	livez    *prometheus.CounterVec
}

// NewHealth returns the health of a proxy with this progress. Eligible reports
// whether the node should get connections from load balancers: it is not being
// deleted, nor tainted ToBeDeletedByClusterAutoscaler (KEP-3836). Late is as
// [Late], which 0 stands for.
func NewHealth(progress *proxy.Progress, eligible func() bool, late time.Duration) *Health {
	if late == 0 {
		late = Late
	}
	count := func(page string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubeproxy_proxy_" + page + "_total", Help: "Answers of /" + page + ".",
		}, []string{"code"})
	}
	return &Health{progress: progress, eligible: eligible, late: late, healthz: count("healthz"), livez: count("livez")}
}

// Healthy reports whether no update waits for longer than it may. A proxy that is
// starting is healthy: the rules of the one before are in force.
func (h *Health) Healthy() bool {
	waiting := h.progress.Waiting()
	return waiting.IsZero() || time.Since(waiting) < h.late
}

// state is what the pages say, with the names of kube-proxy 1.36.
type state struct {
	LastUpdated  time.Time              `json:"lastUpdated"`
	CurrentTime  time.Time              `json:"currentTime"`
	NodeEligible *bool                  `json:"nodeEligible,omitempty"`
	Healthy      bool                   `json:"healthy"`
	Status       map[string]familyState `json:"status,omitempty"`
}

type familyState struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

func (h *Health) state() state {
	s := state{CurrentTime: time.Now(), LastUpdated: h.progress.Applied(), Healthy: h.Healthy()}
	if !s.LastUpdated.IsZero() {
		// Both families are programmed in the same steps.
		both := familyState{s.LastUpdated, s.Healthy}
		s.Status = map[string]familyState{"IPv4": both, "IPv6": both}
	}
	return s
}

// Handler serves /healthz, which also asks whether the node is eligible, and
// /livez, which does not: a node that is to go should not have its proxy
// restarted.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		s, eligible := h.state(), h.eligible()
		s.NodeEligible = &eligible
		answer(w, s, s.Healthy && eligible, h.healthz)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		s := h.state()
		answer(w, s, s.Healthy, h.livez)
	})
	return mux
}

// answer writes a page. What is well was, for those who ask, updated just now, as
// in the kube-proxies that updated periodically.
func answer(w http.ResponseWriter, s state, well bool, count *prometheus.CounterVec) {
	code := http.StatusServiceUnavailable
	if well {
		code, s.LastUpdated = http.StatusOK, s.CurrentTime
		count.WithLabelValues("200").Inc()
	} else {
		count.WithLabelValues("503").Inc()
	}
	write(w, code, s, "")
}

// write answers with JSON, with the headers that kube-proxy sends.
func write(w http.ResponseWriter, code int, v any, indent string) {
	b, err := json.MarshalIndent(v, "", indent)
	if indent == "" {
		b, err = json.Marshal(v)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(b) // the asker may be gone
}

// Describe implements [prometheus.Collector].
func (h *Health) Describe(ch chan<- *prometheus.Desc) {
	h.healthz.Describe(ch)
	h.livez.Describe(ch)
}

// Collect implements [prometheus.Collector].
func (h *Health) Collect(ch chan<- prometheus.Metric) {
	h.healthz.Collect(ch)
	h.livez.Collect(ch)
}
