package enginetest_test

import (
	"flag"
	"os"
	"testing"

	"github.com/sluicenet/sluice/proxy/enginetest"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m, children...)) }

var kills = flag.Int("kills", 10, "how many times to kill the process of an engine")

// children are the engines that a test may start in a process of its own.
var children = []enginetest.Engine{nftablesEngine}

const walkSteps = 500

// all runs everything that an engine must pass.
func all(t *testing.T, e enginetest.Engine) {
	t.Run("Table", func(t *testing.T) { enginetest.Table(t, e) })
	t.Run("Walk", func(t *testing.T) { enginetest.Walk(t, e, walkSteps) })
	t.Run("Kill", func(t *testing.T) { enginetest.Kill(t, e, *kills) })
	t.Run("Drift", func(t *testing.T) { enginetest.Drift(t, e) })
	t.Run("Hostile", func(t *testing.T) { enginetest.Hostile(t, e) })
}
