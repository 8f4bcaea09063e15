package enginetest_test

import (
	"testing"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/enginetest"
	"github.com/sluicenet/sluice/proxy/nftables"
)

var nftablesEngine = enginetest.Engine{
	Name: "nftables",
	New: func(o enginetest.Options) (proxy.Engine, error) {
		return nftables.New(nftables.Options{NetNS: o.NetNS, Intercept: o.Intercept, Log: o.Log})
	},
}

func TestNFTables(t *testing.T) { all(t, nftablesEngine) }
