// Package observe is the port on which a process shows its metrics and its
// health.
package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server serves /metrics, /healthz (every check holds) and /livez (the process
// answers). Its zero value is not usable; make one with [New].
type Server struct {
	// Registry takes the collectors of all parts.
	Registry *prometheus.Registry

	mu       sync.Mutex // guards all below
	checks   map[string]func() error
	handlers map[string]http.Handler
}

// New returns a server that knows the metrics of the process itself.
func New(version string) *Server {
	s := &Server{Registry: prometheus.NewRegistry(), checks: map[string]func() error{}, handlers: map[string]http.Handler{}}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sluice_build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	s.Registry.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s
}

// Warning is the error of a check that holds all the same: its text is shown, and the
// process is healthy.
type Warning struct{ Err error }

// Error returns what is wrong.
func (w *Warning) Error() string { return w.Err.Error() }

// Unwrap returns what is wrong.
func (w *Warning) Unwrap() error { return w.Err }

// Check adds a named check to /healthz. A nil error is healthy, and so is a
// [*Warning].
func (s *Server) Check(name string, check func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// Handle adds a page.
func (s *Server) Handle(path string, h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[path] = h
}

// Run serves on address until the context ends. If the address is taken, it
// tries again, unless that is to be a hard failure.
func (s *Server) Run(ctx context.Context, address string, hard bool, log *slog.Logger) error {
	err := Serve(ctx, address, func() *http.Server {
		return &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	}, hard, log)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("metrics: %w", err)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		h := s.handlers[r.URL.Path]
		s.mu.Unlock()
		if h == nil {
			h = http.NotFoundHandler()
		}
		h.ServeHTTP(w, r)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{Registry: s.Registry}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		lines, healthy := s.Health()
		if !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintln(w, strings.Join(lines, "\n"))
	})
	return mux
}

// Health returns a line for each check, and whether all are good.
func (s *Server) Health() (lines []string, healthy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	healthy = true
	for name, check := range s.checks {
		line := name + ": ok"
		if err := check(); err != nil {
			if _, minor := errors.AsType[*Warning](err); minor {
				line = name + ": warning: " + err.Error()
			} else {
				line, healthy = name+": "+err.Error(), false
			}
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	if healthy {
		lines = append(lines, "ok")
	}
	return lines, healthy
}
