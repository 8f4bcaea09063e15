package enginetest_test

import (
	"testing"

	"github.com/sluicenet/sluice/internal/vm"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/enginetest"
	"github.com/sluicenet/sluice/proxy/ipvs"
)

var ipvsEngine = enginetest.Engine{
	Name: "ipvs",
	New: func(o enginetest.Options) (proxy.Engine, error) {
		return ipvs.New(ipvs.Options{NetNS: o.NetNS, Intercept: o.Intercept, Log: o.Log})
	},
	ForgetsConnections: true,
}

// TestIPVS runs in a guest where this machine's kernel has no IPVS.
func TestIPVS(t *testing.T) {
	if vm.Here(t, ipvs.Probe) {
		all(t, ipvsEngine)
	}
}
