package nftables

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

func TestFirst(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	n := l.MustNode("node1")
	if err := probe(Options{NetNS: n.FD()}); err != nil {
		t.Fatal(err)
	}
	e, err := New(Options{NetNS: n.FD()})
	if err != nil {
		t.Fatal(err)
	}
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, &model.Service{Meta: model.Meta{Namespace: "default", Name: "web"}, Type: corev1.ServiceTypeNodePort,
			ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")},
			Ports:      []model.ServicePort{{Protocol: "TCP", Port: 80, NodePort: 30080}},
		})
	})
	p := proxy.NewPlanner(proxy.Config{Node: "node1"})
	w := store.Watch()
	up, _ := w.Next(context.Background())
	ch := p.Update(up)
	t.Log(ch.New)
	if err := e.Sync(context.Background(), ch.New); err != nil {
		t.Fatal(err)
	}
	out, err := n.Command(context.Background(), "nft", "list", "ruleset").Output()
	t.Logf("%s %v", out, err)
	_ = exec.Command
}
