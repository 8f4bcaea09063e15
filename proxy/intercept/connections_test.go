package intercept

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestConnections proves that a TCP connection stays where it was begun: one to an
// ordinary endpoint when the server comes back, and one to the server when a
// successor takes over.
func TestConnections(t *testing.T) {
	w := newWorld(t)
	w.kubeProxy("nftables")
	p := w.start(w.config())
	p.signal(syscall.SIGKILL)
	_ = p.Wait()
	tcp := w.over("tcp")
	w.check(byRemote, tcp...)
	still := func(conns []*dns.Conn, want string) {
		t.Helper()
		for i, c := range conns {
			if got, err := askOn(c, tcp[i].to.Is6(), 10*time.Second); got != want {
				t.Errorf("%v: the connection is answered by %q (%v), want %q", tcp[i], got, err, want)
			}
		}
	}
	// On a busy machine a heartbeat may come too late, and what is begun then is
	// begun elsewhere.
	open := func(want string) []*dns.Conn {
		t.Helper()
		var out []*dns.Conn
		for _, x := range tcp {
			eventually(t, fmt.Sprintf("%v: a connection to %s", x, want), func() bool {
				c, err := x.dial()
				if err != nil {
					return false
				}
				if got, err := askOn(c, x.to.Is6(), 10*time.Second); got != want {
					t.Logf("%v: answered by %q (%v)", x, got, err)
					_ = c.Close()
					return false
				}
				t.Cleanup(func() { _ = c.Close() })
				out = append(out, c)
				return true
			})
		}
		return out
	}
	elsewhere := open(byRemote)
	first := w.start(w.config())
	w.check(byNode, tcp...)
	still(elsewhere, byRemote)
	here := open(byNode)
	second := w.start(w.config())
	eventually(t, "the first is superseded", func() bool { return strings.Contains(first.log.String(), "another process intercepts") })
	first.signal(syscall.SIGSTOP) // what is new is answered by the second alone
	w.check(byNode, w.targets()...)
	first.signal(syscall.SIGCONT)
	still(here, byNode)
	still(elsewhere, byRemote)
	// The successor dies: the first is still there.
	second.signal(syscall.SIGKILL)
	_ = second.Wait()
	w.check(byNode, w.targets()...)
}

// TestReusedPort proves that a client's port leads where a new connection from it
// belongs, whatever server a connection from it had before.
func TestReusedPort(t *testing.T) {
	w := newWorld(t)
	w.kubeProxy("nftables")
	tcp := slices.DeleteFunc(w.over("tcp"), func(x target) bool { return x.from != w.pod.Namespace })
	again := func(want string) {
		t.Helper()
		w.check(want, tcp...)
		for _, x := range tcp {
			source := netip.AddrPortFrom(w.pod.IPv4(), 20000)
			if x.to.Is6() {
				source = netip.AddrPortFrom(w.pod.IPv6(), 20000)
			}
			c, err := x.from.DialFrom(t.Context(), "tcp", source, netip.AddrPortFrom(x.to, 53).String())
			if err != nil {
				t.Errorf("%v: want it answered by %q: %v", x, want, err)
				continue
			}
			if got, err := askOn(&dns.Conn{Conn: c}, x.to.Is6(), 10*time.Second); got != want {
				t.Errorf("%v: answered by %q (%v), want %q", x, got, err, want)
			}
			// The port is free at once after a reset.
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}
	kill := func(p *process) {
		p.signal(syscall.SIGKILL)
		_ = p.Wait()
	}
	first := w.start(w.config())
	again(byNode)
	kill(first)
	again(byRemote)
	again(byRemote)
	second := w.start(w.config())
	again(byNode)
	third := w.start(w.config())
	eventually(t, "the second is superseded", func() bool { return strings.Contains(second.log.String(), "another process intercepts") })
	second.signal(syscall.SIGSTOP)
	again(byNode)
	kill(second)
	again(byNode)
	kill(third)
	again(byRemote)
}

// TestDrain proves that the answers of a server that drains go out whatever its
// successor changes in the meantime.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.kubeProxy("nftables")
	c := w.config()
	c.Linger = true
	first := w.start(c)
	tcp := w.over("tcp")
	w.check(byNode, tcp...)
	conns := w.dialAll(tcp)
	ask := func(n int) (string, error) { return askOn(conns[n], tcp[n].to.Is6(), 10*time.Second) }
	for n, x := range tcp {
		if got, err := ask(n); got != byNode {
			t.Fatalf("%v: answered by %q (%v)", x, got, err)
		}
	}
	first.signal(syscall.SIGTERM)
	eventually(t, "the first has withdrawn", func() bool { return strings.Contains(first.log.String(), "left to the ordinary endpoints") })
	c = w.config()
	c.Unread = true
	second := w.start(c)
	second.signal(syscall.SIGUSR2)
	w.check(byNode, w.targets()...)
	for n, x := range tcp {
		if got, err := ask(n); got != byNode {
			t.Errorf("%v: the connection is answered by %q (%v)", x, got, err)
		}
	}
}

// TestKeptSocket proves that a client that has only one UDP socket goes where the
// others go, whatever its questions have been led to before.
func TestKeptSocket(t *testing.T) {
	w := newWorld(t)
	nobody := w.node2.Addrs()
	// Somebody's rules that translate have connection tracking begin.
	w.kubeProxyTo("nftables", w.node2.IPv4(), w.node2.IPv6())
	w.run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=600") // none ends by itself
	// The flows to a ClusterIP are its proxy's to forget.
	udp := slices.DeleteFunc(w.over("udp"), func(x target) bool { return x.to != link4 && x.to != link6 })
	conns := w.dialAll(udp)
	check := func(want string) {
		t.Helper()
		for n, x := range udp {
			eventually(t, fmt.Sprintf("%v: answered by %q", x, want), func() bool {
				got, err := askOn(conns[n], x.to.Is6(), time.Second/2)
				return got == want && (want != "") == (err == nil)
			})
		}
	}
	check("")
	c := w.config()
	c.Endpoints = nobody
	for _, end := range []string{"", byRemote} {
		p := w.start(c)
		check(byNode)
		eventually(t, "the flows are forgotten", func() bool {
			return !slices.ContainsFunc(w.conntrack(), func(flow string) bool {
				to4, to6 := strings.Contains(flow, "dst="+link4.String()+" "), strings.Contains(flow, "dst="+link6.String()+" ")
				return to4 && !strings.Contains(flow, "src="+c.Endpoints[0].String()+" ") ||
					to6 && !strings.Contains(flow, "src="+c.Endpoints[1].String()+" ")
			})
		})
		p.signal(syscall.SIGKILL)
		_ = p.Wait()
		check(end)
		c = w.config()
	}
}
