package enginetest_test

import (
	"flag"
	"os"
	"testing"

	"github.com/sluicenet/sluice/internal/vm"
	"github.com/sluicenet/sluice/proxy/enginetest"
	"github.com/sluicenet/sluice/proxy/iptables"
)

func TestMain(m *testing.M) {
	// The parts of a test wait more than they work.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err) // the testing package has no such flag any more
	}
	os.Exit(enginetest.Main(m, children...))
}

var (
	kills = flag.Int("kills", 0, "how many times to kill the process of an engine (default 10, in a guest 3)")
	steps = flag.Int("steps", 0, "length of the random walk (default 500, in a guest 100)")
)

// children are the engines that a test may start in a process of its own.
var children = []enginetest.Engine{nftablesEngine, iptablesEngine(iptables.NFT), iptablesEngine(iptables.Legacy), ipvsEngine}

// predecessors are the engines that one replaces, and is replaced by.
func predecessors(e enginetest.Engine) []enginetest.Engine {
	switch e.Name {
	case nftablesEngine.Name:
		return nil // it is the predecessor of all the others
	case "iptables-nft":
		return []enginetest.Engine{nftablesEngine}
	case "iptables-legacy":
		return []enginetest.Engine{nftablesEngine, iptablesEngine(iptables.NFT)}
	}
	return []enginetest.Engine{nftablesEngine, iptablesEngine(iptables.NFT), iptablesEngine(iptables.Legacy)}
}

// TestFull runs in a guest: how many connections the kernel remembers can be set
// for a whole machine only.
func TestFull(t *testing.T) {
	if !vm.Here(t, enginetest.CanLimit) {
		return
	}
	engines := children
	if testing.Short() {
		engines = engines[:1]
	}
	for _, e := range engines {
		t.Run(e.Name, func(t *testing.T) { enginetest.Full(t, e) })
	}
}

// all runs everything that an engine must pass; with -short, less of each, and
// in a guest, which is slow, still less. There one part comes after the other,
// because none waits.
func all(t *testing.T, e enginetest.Engine) {
	every, walk, deaths, switches := 1, 500, 10, 4
	switch {
	case testing.Short() && vm.Guest():
		every, walk, deaths, switches = 6, 50, 1, 2
	case testing.Short():
		every, walk, deaths, switches = 3, 150, 3, 2
	case vm.Guest():
		walk, deaths, switches = 100, 3, 2
	}
	if *kills > 0 {
		deaths = *kills
	}
	if *steps > 0 {
		walk = *steps
	}
	// What somebody has locked, the other parts would wait for.
	t.Run("Hostile", func(t *testing.T) { enginetest.Hostile(t, e) })
	part := func(name string, test func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			if !vm.Guest() {
				t.Parallel()
			}
			test(t)
		})
	}
	part("Table", func(t *testing.T) { enginetest.Table(t, e, every) })
	part("Walk", func(t *testing.T) { enginetest.Walk(t, e, walk) })
	part("Drift", func(t *testing.T) { enginetest.Drift(t, e) })
	part("Kill", func(t *testing.T) { enginetest.Kill(t, e, deaths) })
	for _, o := range predecessors(e) {
		part("Switch/"+o.Name, func(t *testing.T) { enginetest.Switch(t, o, e, switches) })
	}
}
