package intercept

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// repeat is for a machine that has nothing else to do: the gaps are then held to
// what is promised. Otherwise it is enough that they end.
var repeat = flag.Int("repeat", 0, "how often a server is killed, stopped and replaced under load, with its times held to")

// maxGap is how long queries may go unanswered.
const maxGap = time.Second

func checkGap(t *testing.T, how string, loads []*load) {
	t.Helper()
	gap, where := longest(loads)
	t.Logf("%s: the longest gap is %v, at %v", how, gap.Round(time.Millisecond), where)
	if gap > maxGap && *repeat > 0 {
		t.Errorf("%s: no answer for %v at %v", how, gap, where)
	}
}

// TestCapture proves that every address is answered by the node, over each
// protocol and family, to pods and to the node itself, and that connection
// tracking does not see it.
func TestCapture(t *testing.T) {
	w := newWorld(t)
	w.start(w.config())
	w.check(byNode, w.targets()...)
	var flows []string
	for range 10 { // the machine may have been too busy to answer a heartbeat
		w.run("conntrack", "-F")
		w.check(byNode, w.targets()...)
		if flows = w.conntrack(); len(flows) == 0 {
			break
		}
	}
	if len(flows) > 0 {
		t.Errorf("flows of intercepted queries are tracked:\n%s", strings.Join(flows, "\n"))
	}
	w.reload()
}

// conntrack returns the tracked flows of DNS.
func (w *world) conntrack() []string {
	w.t.Helper()
	var out []string
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(w.run("conntrack", "-L", "-f", family)) {
			if strings.Contains(line, "dport=53 ") {
				out = append(out, line)
			}
		}
	}
	return out
}

// reload proves that nft prints the tables and can load what it has printed.
func (w *world) reload() {
	w.t.Helper()
	for _, family := range []string{"ip", "ip6"} {
		text := w.nft("list", "table", family, tableName)
		if j := w.nft("-j", "list", "table", family, tableName); strings.Contains(j, "warning") || !strings.Contains(j, `"capture"`) {
			w.t.Errorf("nft -j list table: %s", j)
		}
		file := filepath.Join(w.t.TempDir(), "table.nft")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
		w.nft("-c", "-f", file)
	}
}

// kubeProxy imitates the service proxy of somebody else for the DNS Service.
func (w *world) kubeProxy(kind string) { w.kubeProxyTo(kind, w.remote.IPv4(), w.remote.IPv6()) }

// kubeProxyTo is kubeProxy with a Service that has these endpoints.
func (w *world) kubeProxyTo(kind string, to4, to6 netip.Addr) {
	w.t.Helper()
	type service struct {
		family, iptables string
		vip, to          netip.Addr
	}
	services := []service{{"ip", "iptables", cluster4, to4}, {"ip6", "ip6tables", cluster6, to6}}
	for _, s := range services {
		to := netip.AddrPortFrom(s.to, 53).String()
		switch kind {
		case "nftables":
			var b strings.Builder
			fmt.Fprintf(&b, "table %s kube-proxy {\n", s.family)
			for _, hook := range []string{"prerouting", "output"} {
				fmt.Fprintf(&b, "chain %s { type nat hook %s priority -100; ", hook, hook)
				for _, protocol := range []string{"udp", "tcp"} {
					fmt.Fprintf(&b, "%s daddr %s %s dport 53 dnat to %s; ", s.family, s.vip, protocol, to)
				}
				b.WriteString("}\n")
			}
			b.WriteString("}\n")
			cmd := w.node.Command(context.Background(), "nft", "-f", "-")
			cmd.Stdin = strings.NewReader(b.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				w.t.Fatalf("%v: %s\n%s", err, out, b.String())
			}
		case "iptables":
			for _, chain := range []string{"PREROUTING", "OUTPUT"} {
				for _, protocol := range []string{"udp", "tcp"} {
					w.run(s.iptables, "-w", "-t", "nat", "-A", chain, "-d", s.vip.String(), "-p", protocol, "--dport", "53", "-j", "DNAT", "--to-destination", to)
				}
			}
		}
	}
}

// TestBesideKubeProxy proves that queries come to the node while the server is
// alive, go to the ordinary endpoints when it is killed or stopped, and come back,
// beside a service proxy of somebody else, never with a longer gap than allowed.
func TestBesideKubeProxy(t *testing.T) {
	for _, kind := range []string{"nftables", "iptables"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			w.kubeProxy(kind)
			w.check(byRemote, w.services()...)
			p := w.start(w.config())
			w.check(byNode, w.targets()...)
			w.deaths(t, p)
			w.reload()
		})
	}
}

// services are the targets by ClusterIP.
func (w *world) services() []target {
	return slices.DeleteFunc(w.targets(), func(x target) bool { return x.to == link4 || x.to == link6 })
}

// deaths kills and stops the server under load.
func (w *world) deaths(t *testing.T, p *process) {
	const patience = 50 * time.Millisecond
	// Clients that keep their socket, and such that take one for each question.
	udp := w.over("udp")
	loads := append(w.begin(true, patience, udp...), w.begin(false, patience, w.targets()...)...)
	defer end(loads)
	more(t, byNode, loads)
	longest(loads)
	for range max(*repeat, 1) {
		p.signal(syscall.SIGSTOP)
		more(t, byRemote, loads)
		checkGap(t, "stopped", loads)
		p.signal(syscall.SIGCONT)
		more(t, byNode, loads)
		checkGap(t, "continued", loads)
		p.signal(syscall.SIGKILL)
		_ = p.Wait()
		more(t, byRemote, loads)
		checkGap(t, "killed", loads)
		p = w.start(w.config())
		more(t, byNode, loads)
		checkGap(t, "started", loads)
	}
}

// TestUpgrade proves that a successor takes over without a lost query, on the
// intercepted addresses and on one that both listen on.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	own := []target{}
	for _, a := range w.node.Addrs() {
		c.Listen = append(c.Listen, netip.AddrPortFrom(a, 53))
		for _, network := range []string{"udp", "tcp"} {
			own = append(own, target{w.pod.Namespace, network, a})
		}
	}
	p := w.start(c)
	targets := append(w.targets(), own...)
	w.check(byNode, targets...)
	udp := slices.DeleteFunc(slices.Clone(targets), func(x target) bool { return x.network != "udp" })
	loads := append(w.begin(true, 20*time.Second, udp...), w.begin(false, 20*time.Second, targets...)...)
	for range max(*repeat, 1) {
		more(t, byNode, loads)
		next := w.start(c)
		more(t, byNode, loads)
		p.signal(syscall.SIGTERM)
		if err := p.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, p.log)
		}
		more(t, byNode, loads)
		p = next
	}
	end(loads)
	for _, l := range loads {
		// A process that gets no turn for long is not there, for the kernel.
		if len(l.lost) > 0 || l.answers[byRemote] > 0 && *repeat > 0 {
			t.Errorf("%v: %d lost (%v), %d by the ordinary endpoint", l.target, len(l.lost), l.lost, l.answers[byRemote])
		}
	}
}

// TestEnd proves that a server that ends leaves its queries to the ordinary
// endpoints at once, and that without any the client is told.
func TestEnd(t *testing.T) {
	for _, endpoints := range []bool{true, false} {
		t.Run(fmt.Sprint(endpoints), func(t *testing.T) {
			w := newWorld(t)
			c := w.config()
			if !endpoints {
				c.Endpoints = nil
			}
			p := w.start(c)
			links := slices.DeleteFunc(w.targets(), func(x target) bool { return x.to != link4 && x.to != link6 })
			w.check(byNode, links...)
			p.signal(syscall.SIGTERM)
			if err := p.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, p.log)
			}
			for _, x := range links {
				got, err := x.ask(20 * time.Second)
				// A process of the node itself is told when it sends.
				refused := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPERM)
				if endpoints && got != byRemote || !endpoints && !refused {
					t.Errorf("%v: %q %v", x, got, err)
				}
			}
			w.reload()
		})
	}
}

// TestUnread proves that a server that cannot read the cluster yet answers on the
// configured addresses, where nobody else would, and leaves ClusterIPs alone.
func TestUnread(t *testing.T) {
	w := newWorld(t)
	w.kubeProxy("nftables")
	c := w.config()
	c.Unread = true
	p := w.start(c)
	for _, x := range w.targets() {
		if x.to == link4 || x.to == link6 {
			w.checkFails(x)
		} else if got, err := x.ask(20 * time.Second); got != byRemote {
			t.Errorf("%v: %q %v", x, got, err)
		}
	}
	w.nft("delete", "table", "ip", tableName)
	eventually(t, "the repair", func() bool { return strings.Contains(p.log.String(), "are repaired") })
	p.signal(syscall.SIGUSR2)
	w.check(byNode, w.targets()...)
	w.reload()
}

// TestUnreadAfterDeath proves the same where a process has died whose rules lead to
// endpoints that do not answer.
func TestUnreadAfterDeath(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Endpoints = []netip.Addr{w.pod.IPv4(), w.pod.IPv6()} // no name server
	p := w.start(c)
	p.signal(syscall.SIGKILL)
	_ = p.Wait()
	c.Unread = true
	p = w.start(c)
	w.checkFails(target{w.node.Namespace, "udp", link4})
	p.signal(syscall.SIGUSR2)
	w.check(byNode, w.targets()...)
}

// TestOwnEndpoints proves that where the DNS Service leads to this node's server
// itself, it leads to the others alone when that one is dead.
func TestOwnEndpoints(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Local = w.node.Addrs()
	more := []netip.Addr{w.node2.IPv4(), w.node2.IPv6()}
	w.serveRemote(w.node2.Namespace, more...)
	c.Endpoints = slices.Concat(c.Endpoints, c.Local, more)
	p := w.start(c)
	w.check(byNode, w.targets()...)
	p.signal(syscall.SIGKILL)
	_ = p.Wait()
	w.check(byRemote, w.targets()...)
	for range 8 {
		for _, x := range w.targets() {
			if got, err := x.ask(20 * time.Second); got != byRemote {
				t.Errorf("%v: %q %v", x, got, err)
			}
		}
	}
	w.reload()
}

// TestHairpin proves that the Pod of an ordinary endpoint gets an answer, too, where
// only that Pod itself is left to give it.
func TestHairpin(t *testing.T) {
	w := newWorld(t)
	w.serveRemote(w.pod.Namespace, w.pod.Addrs()...)
	p := w.start(childConfig{Endpoints: w.pod.Addrs()})
	var ways []target
	for _, network := range []string{"udp", "tcp"} {
		for _, to := range []netip.Addr{link4, link6} {
			ways = append(ways, target{w.pod.Namespace, network, to})
		}
	}
	w.check(byNode, ways...)
	p.signal(syscall.SIGKILL)
	_ = p.Wait()
	w.check(byRemote, ways...)
}

// routeLost reports whether the internal addresses are not local on the node.
func (w *world) routeLost(family proxy.Family) (lost bool) {
	w.t.Helper()
	if err := w.node.Do(func() error { lost = routeLost(server(family, 0, 0)); return nil }); err != nil {
		w.t.Fatal(err)
	}
	return lost
}

// TestRepair proves that what somebody else removes or changes is made again, and
// that other tables stay as they are.
func TestRepair(t *testing.T) {
	w := newWorld(t)
	w.nft("add", "table", "ip", "other")
	w.start(w.config())
	w.check(byNode, w.targets()...)
	for _, damage := range [][]string{
		{"delete", "table", "ip", tableName},
		{"flush", "chain", "ip6", tableName, chainCapture},
		{"flush", "map", "ip", tableName, setClients},
		{"insert", "rule", "ip", tableName, chainCapture, "drop"},
		{"add", "table", "ip", tableName, "{ flags dormant; }"},
		{"chain", "ip", tableName, chainPrerouting, "{ policy drop; }"},
	} {
		w.nft(damage...)
		w.check(byNode, w.targets()...)
	}
	for _, family := range both {
		w.run("ip", "route", "del", "local", internal[family].String(), "dev", "lo", "table", "local")
		eventually(t, "the repair of the route", func() bool { return !w.routeLost(family) })
		w.check(byNode, w.targets()...)
	}
	w.nft("list", "table", "ip", "other")
}

// TestFamilies proves that two processes of different families leave each other's
// rules alone, and that those of one that has ended go.
func TestFamilies(t *testing.T) {
	w := newWorld(t)
	c := childConfig{Alone: true}
	four, six := target{w.pod.Namespace, "udp", link4}, target{w.pod.Namespace, "udp", link6}
	c.Addresses = []netip.Addr{link4}
	first := w.start(c)
	w.check(byNode, four)
	c.Addresses = []netip.Addr{link6}
	second := w.start(c)
	for range 3 {
		w.check(byNode, four, six)
		time.Sleep(verifyEvery)
	}
	for _, p := range []*process{first, second} {
		if strings.Contains(p.log.String(), "repaired") {
			t.Errorf("one takes the other's rules away:\n%s", p.log)
		}
	}
	first.signal(syscall.SIGTERM)
	if err := first.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, first.log)
	}
	eventually(t, "the rules of the first go", func() bool {
		return !strings.Contains(w.nft("list", "tables"), "table ip "+tableName)
	})
	w.check(byNode, six)
}

// TestWildcard proves that a server may answer on all addresses besides.
func TestWildcard(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Listen = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:53")}
	w.start(c)
	w.start(c)
	w.check(byNode, w.targets()...)
	w.check(byNode, target{w.pod.Namespace, "udp", w.node.IPv4()}, target{w.pod.Namespace, "tcp", w.node.IPv4()})
}
