package nftables

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// BenchmarkTraffic is the price of counting packets: the processor time of both
// ends and of the kernel between them, for short connections to a Service, for
// datagrams and for a megabyte through a connection. Of two equal nodes one counts;
// short rounds alternate between them, and the quickest tenths are compared, in which
// nobody else was in the way.
//
//	go test -bench Traffic -benchtime 200x -run NONE ./proxy/nftables
func BenchmarkTraffic(b *testing.B) {
	l := lab.ForTest(b, lab.Options{})
	nodes := [2]*trafficNode{newTrafficNode(b, l.MustNode("plain"), false), newTrafficNode(b, l.MustNode("counted"), true)}
	kinds := []struct {
		name  string
		times float64
		work  func(*trafficNode)
		cost  [2][]float64
	}{
		{name: "connection", times: 50, work: func(n *trafficNode) { n.connect(b, 50) }},
		{name: "MB", times: 20, work: func(n *trafficNode) { n.send(b, n.tcp, make([]byte, 1<<20), 20) }},
	}
	round := 0
	for b.Loop() {
		round++
		for k := range kinds {
			for i := range 2 {
				which := (i + round) % 2
				var c cpu
				c.begin(b)
				kinds[k].work(nodes[which])
				c.end(b)
				kinds[k].cost[which] = append(kinds[k].cost[which], float64(c.all().Microseconds()))
			}
		}
	}
	var packet [2][]float64
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range 2 * datagramRounds {
		packet[i%2] = append(packet[i%2], nodes[i%2].perDatagram(b))
	}
	quick := func(v []float64) float64 {
		slices.Sort(v)
		return v[len(v)/10]
	}
	plain, counted := quick(packet[0]), quick(packet[1])
	b.ReportMetric(plain, "ns/datagram")
	b.ReportMetric(counted-plain, "ns-more/datagram")
	for _, k := range kinds {
		plain, counted := quick(k.cost[0]), quick(k.cost[1])
		b.ReportMetric(plain/k.times, "µs/"+k.name)
		b.ReportMetric(100*(counted/plain-1), "%/"+k.name)
	}
}

const datagramRounds = 1000

// perDatagram returns the time of this thread in which it sends one datagram, which
// the kernel brings to the server's socket meanwhile.
func (n *trafficNode) perDatagram(b *testing.B) (ns float64) {
	raw, err := n.udp.(*net.UDPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	const times = 100
	data := make([]byte, 64)
	err = raw.Control(func(fd uintptr) {
		var before, after unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
		for range times {
			_, _ = unix.Write(int(fd), data)
		}
		_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
		ns = float64(after.Nano()-before.Nano()) / times
	})
	if err != nil {
		b.Fatal(err)
	}
	return ns
}

// trafficNode has a client and a server of a Service.
type trafficNode struct {
	client   *lab.Pod
	to       netip.AddrPort
	tcp, udp net.Conn
}

func newTrafficNode(b *testing.B, node *lab.Node, traffic bool) *trafficNode {
	client, server := node.MustPod("client"), node.MustPod("server")
	ln, err := server.Listen("tcp", ":8080")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		}
	}()
	store := model.NewStore()
	watch := store.Watch()
	addr := netip.MustParseAddr("10.96.0.10")
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, &model.Service{
			Meta: model.Meta{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{addr},
			Ports: []model.ServicePort{{Name: "t", Protocol: "TCP", Port: 80}, {Name: "u", Protocol: "UDP", Port: 80}},
		})
		model.EndpointSlices.Put(tx, &model.EndpointSlice{
			Meta: model.Meta{Namespace: "default", Name: "web"}, Service: "web", Weight: 1,
			Ports:     []model.EndpointPort{{Name: "t", Protocol: "TCP", Port: 8080}, {Name: "u", Protocol: "UDP", Port: 8080}},
			Endpoints: []model.Endpoint{{Addr: server.IPv4(), Node: node.Name(), Ready: true, Serving: true}},
		})
	})
	up, err := watch.Next(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	e, err := New(Options{NetNS: node.FD(), Traffic: traffic})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	if err := e.Sync(b.Context(), proxy.NewPlanner(proxy.Config{Node: node.Name()}).Update(up).New); err != nil {
		b.Fatal(err)
	}
	n := &trafficNode{client: client, to: netip.AddrPortFrom(addr, 80)}
	sink, err := server.ListenPacket("udp", ":8080")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sink.Close() })
	n.tcp, n.udp = n.dial(b, "tcp"), n.dial(b, "udp")
	return n
}

func (n *trafficNode) dial(b *testing.B, network string) net.Conn {
	c, err := n.client.DialContext(b.Context(), network, n.to.String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

func (n *trafficNode) connect(b *testing.B, times int) {
	for range times {
		c, err := n.client.DialContext(b.Context(), "tcp", n.to.String())
		if err != nil {
			b.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

func (n *trafficNode) send(b *testing.B, c net.Conn, data []byte, times int) {
	for range times {
		if _, err := c.Write(data); err != nil {
			b.Fatal(err)
		}
	}
}
