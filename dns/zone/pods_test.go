package zone

import (
	"testing"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// TestHostPods proves that the address of a node is a name in each namespace that
// has a Pod on the node's network, and no longer than it has one that runs.
func TestHostPods(t *testing.T) {
	store := dnstest.Cluster()
	p, err := NewPlanner(Options{Pods: PodsVerified})
	if err != nil {
		t.Fatal(err)
	}
	watch := store.Watch()
	defer watch.Stop()
	pod := func(namespace, name string, change func(*model.Pod)) *model.Pod {
		pod := &model.Pod{Meta: dnstest.Meta(namespace, name), IPs: dnstest.Addrs("192.168.0.1", "fd00:192::1"), HostNetwork: true}
		if change != nil {
			change(pod)
		}
		return pod
	}
	has := func(name, origin string) {
		t.Helper()
		wired, err := wire.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		typ := uint16(wire.TypeA)
		if name[0] == 'f' {
			typ = wire.TypeAAAA
		}
		z := p.Zone()
		got := ""
		if key, ok := z.Origin(wired); ok {
			got = key.String()
		}
		if a := z.Lookup(wired, typ); (a.Status == Success) != (origin != "") || a.Status != Success && a.Status != NXDomain || got != origin {
			t.Errorf("%s: status %d of %q, want that of %q", name, a.Status, got, origin)
		}
	}
	step := func(change func(*model.Txn)) {
		t.Helper()
		store.Update(change)
		u, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.Update(u)
	}

	step(func(tx *model.Txn) {
		model.Pods.Put(tx, pod("testns", "proxy-a", nil))
		model.Pods.Put(tx, pod("testns", "proxy-b", nil))
		model.Pods.Put(tx, pod("empty", "ended", func(p *model.Pod) { p.Terminated = true }))
		model.Pods.Put(tx, pod("default", "agent", func(p *model.Pod) { p.Deleting = true }))
	})
	has("192-168-0-1.testns.pod.cluster.local", "Pod testns/proxy-a")
	has("fd00-192--1.testns.pod.cluster.local", "Pod testns/proxy-a")
	has("192-168-0-1.default.pod.cluster.local", "Pod default/agent")
	has("192-168-0-1.empty.pod.cluster.local", "")
	has("192-168-0-1.kube-system.pod.cluster.local", "")
	has("192-168-0-2.testns.pod.cluster.local", "")

	step(func(tx *model.Txn) { tx.Delete(model.Key{Kind: model.KindPod, Namespace: "testns", Name: "proxy-a"}) })
	has("192-168-0-1.testns.pod.cluster.local", "Pod testns/proxy-b")
	step(func(tx *model.Txn) {
		model.Pods.Put(tx, pod("testns", "proxy-b", func(p *model.Pod) { p.Terminated = true }))
	})
	has("192-168-0-1.testns.pod.cluster.local", "")
	has("fd00-192--1.testns.pod.cluster.local", "")
}
