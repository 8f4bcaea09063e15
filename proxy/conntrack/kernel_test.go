package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// table is the connection tracking of a node.
type table struct {
	t      *testing.T
	node   *lab.Node
	handle *netlink.Handle
}

func newTable(t *testing.T) *table {
	t.Helper()
	node := lab.ForTest(t, lab.Options{}).MustNode("node1")
	handle, err := netlink.NewHandleAt(netns.NsHandle(node.FD()), unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handle.Close)
	return &table{t, node, handle}
}

// add makes a UDP flow that a client has to a destination and somebody answers.
func (b *table) add(client, destination, answers string) {
	b.t.Helper()
	from, to, by := ap(client), ap(destination), ap(answers)
	tuple := func(src, dst netip.AddrPort) netlink.IPTuple {
		return netlink.IPTuple{
			SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(), SrcPort: src.Port(), DstPort: dst.Port(), Protocol: unix.IPPROTO_UDP,
		}
	}
	f := &netlink.ConntrackFlow{FamilyType: unix.AF_INET, Forward: tuple(from, to), Reverse: tuple(by, from), TimeOut: 600}
	family := netlink.InetFamily(unix.AF_INET)
	if from.Addr().Is6() {
		f.FamilyType, family = unix.AF_INET6, unix.AF_INET6
	}
	if err := b.handle.ConntrackCreate(netlink.ConntrackTable, family, f); err != nil {
		b.t.Fatalf("add %s → %s: %v", client, destination, err)
	}
}

// flows returns the clients of all flows, ordered.
func (b *table) flows() []string {
	b.t.Helper()
	s, err := nfnl.Dial(b.node.FD())
	if err != nil {
		b.t.Fatal(err)
	}
	defer s.Close()
	var out []string
	for _, family := range [...]byte{unix.AF_INET, unix.AF_INET6} {
		if err := list(context.Background(), s, family, func(f *flow) {
			_, from, _ := parseTuple(f.reply)
			out = append(out, from.String())
		}); err != nil {
			b.t.Fatal(err)
		}
	}
	slices.Sort(out)
	return out
}

func (b *table) expect(what string, clients ...string) {
	b.t.Helper()
	slices.Sort(clients)
	if got := b.flows(); !slices.Equal(got, clients) {
		b.t.Errorf("%s: %v are left, want %v", what, got, clients)
	}
}

func (b *table) reconcile(r proxy.Reconciliation, deleted int) {
	b.t.Helper()
	done, err := NewAt(b.node.FD()).Reconcile(b.t.Context(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, d := range done {
		n += d.Deleted
	}
	if n != deleted {
		b.t.Errorf("%d flows deleted, want %d", n, deleted)
	}
}

// planOf returns the plan of a UDP Service with a NodePort.
func planOf(t *testing.T, cfg proxy.Config, endpoints ...string) *proxy.Plan {
	t.Helper()
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, &model.Service{
			Meta: model.Meta{Namespace: name.Namespace, Name: name.Name}, Type: corev1.ServiceTypeNodePort,
			ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")},
			Families:   []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			Ports:      []model.ServicePort{{Port: 53, NodePort: 30053, Protocol: corev1.ProtocolUDP}},
		})
		for i, e := range endpoints {
			model.EndpointSlices.Put(tx, &model.EndpointSlice{
				Meta:    model.Meta{Namespace: name.Namespace, Name: fmt.Sprint(i)},
				Service: name.Name, IPv6: ap(e).Addr().Is6(), Weight: 1,
				Ports:     []model.EndpointPort{{Port: ap(e).Port(), Protocol: corev1.ProtocolUDP}},
				Endpoints: []model.Endpoint{{Addr: ap(e).Addr(), Ready: true, Serving: true}},
			})
		}
	})
	up, err := store.Watch().Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return proxy.NewPlanner(cfg).Update(up).New
}

// TestStart checks what a start finds of the time before it: the flows of
// endpoints and ClusterIPs that are gone go, and nobody else's.
func TestStart(t *testing.T) {
	b := newTable(t)
	node := b.node.IPv4().String()
	cfg := proxy.Config{Node: "node1", ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}}
	plan := planOf(t, cfg, "10.244.0.1:53", "[fd00:10:244::1]:53")
	for _, f := range []struct{ client, to, by string }{
		{"10.0.0.1:1001", "10.96.0.10:53", "10.244.0.1:53"},                          // healthy
		{"10.0.0.1:1002", node + ":30053", "10.244.0.1:53"},                          // healthy
		{"10.0.0.1:1003", "10.96.0.10:53", "10.244.0.9:53"},                          // endpoint gone
		{"10.0.0.1:1004", "10.96.0.10:53", "10.244.0.1:54"},                          // its port is gone
		{"10.0.0.1:1005", node + ":30053", "10.244.0.9:53"},                          // endpoint gone
		{"10.0.0.1:1006", "10.96.0.99:53", "10.244.0.1:53"},                          // Service gone
		{"10.0.0.1:1007", "10.96.0.10:53", "10.96.0.10:53"},                          // never translated
		{"10.0.0.1:1008", "192.0.2.1:53", "10.244.0.9:53"},                           // somebody else's
		{"10.0.0.1:1009", "10.96.0.99:53", "10.96.0.99:53"},                          // nobody's
		{"127.0.0.1:1010", "127.0.0.1:30053", "127.0.0.1:30053"},                     // the relay's
		{"10.0.0.1:1011", "10.240.0.99:30053", "10.244.0.9:53"},                      // another node's
		{"[fd00::1]:1012", "[fd00:10:96::10]:53", "[fd00:10:244::1]:53"},             // healthy
		{"[fd00::1]:1013", "[fd00:10:96::10]:53", "[fd00:10:244::9]:53"},             // endpoint gone
		{"[fd00::1]:1014", "[" + b.node.IPv6().String() + "]:30053", "[fd00::9]:53"}, // endpoint gone
	} {
		b.add(f.client, f.to, f.by)
	}
	b.reconcile(proxy.Reconciliation{Plan: plan}, 7)
	b.expect("after a start", "10.0.0.1:1001", "10.0.0.1:1002", "10.0.0.1:1008", "10.0.0.1:1009", "127.0.0.1:1010", "10.0.0.1:1011", "[fd00::1]:1012")
	b.reconcile(proxy.Reconciliation{Plan: plan}, 0)

	// Where only some addresses answer NodePorts, flows to others are not ours.
	cfg.NodePorts = proxy.NodePortAddresses{CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	b.add("10.0.0.1:1020", node+":30053", "10.244.0.9:53")
	b.reconcile(proxy.Reconciliation{Plan: planOf(t, cfg, "10.244.0.1:53", "[fd00:10:244::1]:53")}, 0)
}

// TestTransitions checks what a step leaves behind.
func TestTransitions(t *testing.T) {
	b := newTable(t)
	a, gone := "10.244.0.1:53", "10.244.0.2:53"
	add := func() {
		b.add("10.0.0.1:1001", "10.96.0.10:53", a)
		b.add("10.0.0.1:1002", "10.96.0.10:53", gone)
		b.add("10.0.0.1:1003", b.node.IPv4().String()+":30053", gone)
		b.add("10.0.0.1:1004", "10.96.0.99:53", gone)
	}
	plan := planOf(t, proxy.Config{Node: "node1"}, a)
	step := func(old, now *proxy.Service) proxy.Reconciliation {
		return proxy.Reconciliation{Plan: plan, Changes: []proxy.Change{{Name: name, Old: old, New: now}}}
	}
	add()
	b.reconcile(step(dns("10.96.0.10", a, gone), dns("10.96.0.10", a)), 2)
	b.expect("one endpoint gone", "10.0.0.1:1001", "10.0.0.1:1004")
	b.reconcile(step(dns("10.96.0.10", a), dns("10.96.0.10")), 1)
	b.expect("the last endpoint gone", "10.0.0.1:1004")
	b.reconcile(step(dns("10.96.0.99", gone), nil), 1)
	b.expect("Service gone")

	// What a later step allows may have been begun under it.
	add()
	r := step(dns("10.96.0.10", a, gone), dns("10.96.0.10", a))
	r.Later = func() []proxy.Change {
		return []proxy.Change{{Name: name, Old: dns("10.96.0.10", a), New: dns("10.96.0.10", gone)}}
	}
	b.reconcile(r, 0)
}

// TestMany deletes more flows than one message holds, from among others.
func TestMany(t *testing.T) {
	b := newTable(t)
	const many = 12_000
	for i := range many {
		answers := "10.244.0.1:53"
		if i%3 != 0 {
			answers = "10.244.0.2:53"
		}
		b.add(fmt.Sprintf("10.0.%d.%d:1000", i/250, i%250+1), "10.96.0.10:53", answers)
	}
	plan := planOf(t, proxy.Config{Node: "node1"}, "10.244.0.1:53")
	b.reconcile(proxy.Reconciliation{Plan: plan}, many/3*2)
	if n := len(b.flows()); n != many/3 {
		t.Errorf("%d flows are left, want %d", n, many/3)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewAt(b.node.FD()).Reconcile(ctx, proxy.Reconciliation{Plan: planOf(t, proxy.Config{Node: "node1"})}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if n := len(b.flows()); n != many/3 {
		t.Errorf("%d flows are left, want %d", n, many/3)
	}
}

// TestIdentity checks that a flow which came in the place of another stays.
func TestIdentity(t *testing.T) {
	b := newTable(t)
	s, err := nfnl.Dial(b.node.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	find := func() (found flow) {
		if err := list(t.Context(), s, unix.AF_INET, func(f *flow) { found = f.clone() }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	b.add("10.0.0.1:1001", "10.96.0.10:53", "10.244.0.1:53")
	first := find()
	if err := remove(t.Context(), s, unix.AF_INET, first); err != nil {
		t.Fatal(err)
	}
	b.add("10.0.0.1:1001", "10.96.0.10:53", "10.244.0.2:53")
	if err := remove(t.Context(), s, unix.AF_INET, first); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a flow that is gone is removed with %v", err)
	}
	b.expect("the later flow", "10.0.0.1:1001")
}

// TestPackets checks that a client whose flow was deleted reaches another
// backend, by the rules that are there, with its next datagram.
func TestPackets(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node1")
	client, one, two := node.MustPod("client"), node.MustPod("one"), node.MustPod("two")
	for name, pod := range map[string]*lab.Pod{"one": one, "two": two} {
		pc, err := pod.ListenPacket("udp", "0.0.0.0:53")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = pc.Close() }()
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = pc.WriteTo([]byte(name), from)
			}
		}()
	}
	rules := func(to *lab.Pod) {
		t.Helper()
		cmd := node.Command(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`table ip test
delete table ip test
table ip test {
	chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 udp dport 53 dnat to %s:53; }
}
`, to.IPv4()))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	rules(one)
	conn, err := client.DialContext(t.Context(), "udp", "10.96.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ask := func(want string) {
		t.Helper()
		var got string
		for range 20 {
			_, _ = conn.Write([]byte("?"))
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			buf := make([]byte, 64)
			n, err := conn.Read(buf)
			if got = string(buf[:n]); err == nil {
				break
			}
			if _, timeout := errors.AsType[net.Error](err); !timeout {
				break
			}
		}
		if got != want {
			t.Errorf("%q answers, want %q", got, want)
		}
	}
	ask("one")
	rules(two)
	ask("one") // the kernel remembers
	oneAt, twoAt := netip.AddrPortFrom(one.IPv4(), 53).String(), netip.AddrPortFrom(two.IPv4(), 53).String()
	r := proxy.Reconciliation{
		Plan:    planOf(t, proxy.Config{Node: "node1"}, twoAt),
		Changes: []proxy.Change{{Name: name, Old: dns("10.96.0.10", oneAt), New: dns("10.96.0.10", twoAt)}},
	}
	if _, err := NewAt(node.FD()).Reconcile(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	ask("two")
	// A healthy flow stays the same through a start.
	port := conn.LocalAddr().String()
	if _, err := NewAt(node.FD()).Reconcile(t.Context(), proxy.Reconciliation{Plan: r.Plan}); err != nil {
		t.Fatal(err)
	}
	b := &table{t: t, node: node}
	if got := b.flows(); !slices.Contains(got, port) {
		t.Errorf("the flow of %s is gone: %v", port, got)
	}
	ask("two")
}
