package demo

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/internal/showcase"
)

// newPlace tells where in the lab the manifests are in force. What is known
// only when sluice runs is filled in later.
func (d *demo) newPlace() (*showcase.Place, error) {
	node1, node2, toolbox := d.nodes["node1"], d.nodes["node2"], d.pods["toolbox"]
	p := &showcase.Place{
		Table: d.table, Toolbox: toolbox, Frontend: d.pods["frontend-1"], Client: d.client,
		Nodes:   []showcase.Addresses{addressesOf(node1), addressesOf(node2)},
		Gateway: addressesOf(node1),
		Names:   newResolver(toolbox),
		Proxies: func(ctx context.Context) (map[string]int, error) {
			out, err := d.get(ctx, "node1", "proxies")
			if err != nil {
				return nil, err
			}
			return showcase.ProxyStates(string(out))
		},
		Edit: func(_ context.Context, change func(string) string) (time.Time, error) {
			return d.edit("canary.yaml", change)
		},
		Crash: func(context.Context) error { return errors.Join(d.up.kill(), d.node.kill()) },
		Recover: func(ctx context.Context) error {
			if err := errors.Join(d.again(d.up), d.again(d.node)); err != nil {
				return err
			}
			return d.ready(ctx)
		},
	}
	for _, secret := range d.secrets {
		if secret.Name == "example-com" {
			var err error
			p.Trust, err = showcase.Trust(secret.Data)
			return p, err
		}
	}
	return nil, errors.New("the quick start has no Secret example-com")
}

func addressesOf(node *lab.Node) showcase.Addresses {
	return showcase.Addresses{V4: node.IPv4(), V6: node.IPv6()}
}

// newResolver asks from inside a Pod, with dig where the machine has it.
func newResolver(pod *lab.Pod) *showcase.Resolver {
	r := &showcase.Resolver{
		From: pod, Server: netip.AddrPortFrom(pod.Node().IPv4(), 53), Search: []string{"default.svc.cluster.local"},
	}
	if path, err := exec.LookPath("dig"); err == nil {
		r.Dig = func(ctx context.Context, args ...string) ([]byte, error) {
			return pod.Command(ctx, path, args...).Output()
		}
	}
	return r
}
