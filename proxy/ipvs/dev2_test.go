package ipvs

import (
	"net/netip"
	"os"
	"testing"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

func newFakeless(*testing.T) int { return 0 }

func dialFilter(t *testing.T, o Options) filter {
	f, err := nfnl.Dial(o.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

type noKernel struct{ kernel }

func (noKernel) prepare() error                          { return nil }
func (noKernel) tryScheduler(string) error               { return nil }
func (noKernel) servers() (map[serverID]settings, error) { return nil, nil }
func (noKernel) addServer(serverID, settings) error      { return nil }
func (noKernel) addDestination(serverID, netip.AddrPort, int) error {
	return nil
}
func (noKernel) addresses() (bound, error) { return bound{}, nil }
func (noKernel) bind(netip.Addr) error     { return nil }
