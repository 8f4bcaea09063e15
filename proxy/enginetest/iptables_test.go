package enginetest_test

import (
	"path/filepath"
	"testing"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/enginetest"
	"github.com/sluicenet/sluice/proxy/iptables"
)

func iptablesEngine(v iptables.Variant) enginetest.Engine {
	return enginetest.Engine{
		Name: "iptables-" + string(v),
		New: func(o enginetest.Options) (proxy.Engine, error) {
			return iptables.New(iptables.Options{Variant: v, NetNS: o.NetNS, Intercept: o.Intercept, Log: o.Log})
		},
	}
}

func TestIPTablesNFT(t *testing.T) { all(t, iptablesEngine(iptables.NFT)) }

func TestIPTablesLegacy(t *testing.T) {
	// The machine's own lock is not for a namespace's tables.
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
	all(t, iptablesEngine(iptables.Legacy))
}
