package nftables

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// BenchmarkTraffic is the price of counting packets: the processor time of both
// ends and of the kernel between them, for a connection to a Service and for a
// megabyte through one. Rounds alternate, so the load of the machine meets both.
//
//	go test -bench Traffic -benchtime 5x -run NONE ./proxy/nftables
func BenchmarkTraffic(b *testing.B) {
	node := lab.ForTest(b, lab.Options{}).MustNode("node1")
	client, server := node.MustPod("client"), node.MustPod("server")
	ln, err := server.Listen("tcp", ":8080")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
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
			Ports: []model.ServicePort{{Protocol: "TCP", Port: 80}},
		})
		model.EndpointSlices.Put(tx, &model.EndpointSlice{
			Meta: model.Meta{Namespace: "default", Name: "web"}, Service: "web", Weight: 1,
			Ports:     []model.EndpointPort{{Protocol: "TCP", Port: 8080}},
			Endpoints: []model.Endpoint{{Addr: server.IPv4(), Node: "node1", Ready: true, Serving: true}},
		})
	})
	up, err := watch.Next(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	plan := proxy.NewPlanner(proxy.Config{Node: "node1"}).Update(up).New
	dial := func() net.Conn {
		c, err := client.DialContext(b.Context(), "tcp", netip.AddrPortFrom(addr, 80).String())
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	const connections, megabytes = 1000, 500
	var perConnection, perMegabyte [2]cpu
	block := make([]byte, 1<<20)
	n := 0
	for b.Loop() {
		n++
		for i := range 2 {
			which := (i + n) % 2
			e, err := New(Options{NetNS: node.FD(), Traffic: which == 1})
			if err != nil {
				b.Fatal(err)
			}
			if err := e.Cleanup(b.Context()); err != nil {
				b.Fatal(err)
			}
			if err := e.Sync(b.Context(), plan); err != nil {
				b.Fatal(err)
			}
			perConnection[which].begin(b)
			for range connections {
				c := dial()
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
			perConnection[which].end(b)
			c := dial()
			perMegabyte[which].begin(b)
			for range megabytes {
				if _, err := c.Write(block); err != nil {
					b.Fatal(err)
				}
			}
			perMegabyte[which].end(b)
			_ = c.Close()
			_ = e.Close()
		}
	}
	for which, name := range []string{"plain", "counted"} {
		b.ReportMetric(float64(perConnection[which].all().Microseconds())/float64(n*connections), name+"-µs/connection")
		b.ReportMetric(float64(perMegabyte[which].all().Microseconds())/float64(n*megabytes), name+"-µs/MB")
	}
}
