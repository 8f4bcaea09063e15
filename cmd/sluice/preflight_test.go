package main

import (
	"net"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/config"
)

// A kube-proxy that is about to go has the addresses that its configuration
// names: on a cluster that ends nothing, unless it is to.
func TestPreflightTakenAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for _, c := range []struct {
		name      string
		manifests string
		hard      bool
		fatal     []string
	}{
		{name: "cluster"},
		{name: "cluster, hard", hard: true, fatal: []string{"metrics", "proxy.healthz"}},
		{name: "directory", manifests: t.TempDir(), fatal: []string{"metrics"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := config.Default()
			conf.Metrics, conf.Proxy.Healthz = taken.Addr().String(), taken.Addr().String()
			conf.Manifests, conf.Proxy.HealthzHardFail = c.manifests, c.hard
			var said, fatal []string
			for _, f := range preflight(t.Context(), &conf, role{node: true}) {
				if f.err == nil || !strings.Contains(f.err.Error(), taken.Addr().String()) {
					continue
				}
				field, _, _ := strings.Cut(f.err.Error(), ":")
				said = append(said, field)
				if !f.minor {
					fatal = append(fatal, field)
				}
			}
			if strings.Join(said, " ") != "metrics proxy.healthz" || strings.Join(fatal, " ") != strings.Join(c.fatal, " ") {
				t.Errorf("said of %v, fatal %v; want fatal %v", said, fatal, c.fatal)
			}
		})
	}
}
