package enginetest_test

import (
	"flag"
	"os"
	"testing"

	"github.com/sluicenet/sluice/proxy/enginetest"
	"github.com/sluicenet/sluice/proxy/iptables"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m, children...)) }

var kills = flag.Int("kills", 10, "how many times to kill the process of an engine")

// children are the engines that a test may start in a process of its own.
var children = []enginetest.Engine{nftablesEngine, iptablesEngine(iptables.NFT), iptablesEngine(iptables.Legacy), ipvsEngine}

// predecessors are the engines that one replaces, and is replaced by.
func predecessors(e enginetest.Engine) []enginetest.Engine {
	switch e.Name {
	case nftablesEngine.Name:
		return nil // it is the predecessor of all the others
	case "iptables-nft", "iptables-legacy":
		// The two are variants of one engine, which cleans up after both.
		return []enginetest.Engine{nftablesEngine}
	}
	return []enginetest.Engine{nftablesEngine, iptablesEngine(iptables.NFT)}
}

const walkSteps = 500

// all runs everything that an engine must pass.
func all(t *testing.T, e enginetest.Engine) {
	t.Run("Table", func(t *testing.T) { enginetest.Table(t, e) })
	t.Run("Walk", func(t *testing.T) { enginetest.Walk(t, e, walkSteps) })
	t.Run("Kill", func(t *testing.T) { enginetest.Kill(t, e, *kills) })
	t.Run("Drift", func(t *testing.T) { enginetest.Drift(t, e) })
	t.Run("Hostile", func(t *testing.T) { enginetest.Hostile(t, e) })
	for _, o := range predecessors(e) {
		t.Run("Switch/"+o.Name, func(t *testing.T) { enginetest.Switch(t, o, e) })
	}
}
