package enginetest_test

import (
	"os"
	"testing"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/proxy/enginetest"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

const walkSteps = 500

// all runs everything that an engine must pass.
func all(t *testing.T, e enginetest.Engine) {
	t.Run("Table", func(t *testing.T) { enginetest.Table(t, e) })
	t.Run("Walk", func(t *testing.T) { enginetest.Walk(t, e, walkSteps) })
}
