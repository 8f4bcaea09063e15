package redirect_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/redirect"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

var configs = map[string]redirect.Config{
	"usual": {},
	"mark":  {ProxyMark: 1337},
	"all": {
		OutboundPort: 25001, InboundPort: 25006, ProxyUID: 77,
		ExcludeInboundPorts:  []uint16{22, mesh.HealthPort},
		ExcludeOutboundPorts: []uint16{3306, 15012},
		ExcludeOutbound:      []netip.Prefix{netip.MustParsePrefix("10.9.8.7/16"), netip.MustParsePrefix("fd00:9::/64"), netip.MustParsePrefix("192.0.2.1/32")},
	},
}

func TestGolden(t *testing.T) {
	for name, c := range configs {
		path := filepath.Join("testdata", name+".nft")
		if *update {
			if err := os.WriteFile(path, []byte(c.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.String(); got != string(want) {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
		}
	}
}

// What the text says and what is written by netlink are the same to the kernel.
func TestKernelHasWhatTheTextSays(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node")
	for name, c := range configs {
		native, text := node.MustPod("native-"+name), node.MustPod("text-"+name)
		// Applied twice: the second replaces the first.
		for _, conf := range []redirect.Config{configs["all"], c} {
			if err := redirect.Apply(conf, native.FD()); err != nil {
				t.Fatal(err)
			}
		}
		cmd := text.Command(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(c.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got, want := list(t, native), list(t, text)
		if got != want {
			t.Errorf("%s: by netlink:\n%s\nby text:\n%s", name, got, want)
		}
		for range 2 { // the second finds nothing
			if err := redirect.Cleanup(native.FD()); err != nil {
				t.Error(err)
			}
		}
		if got := list(t, native); got != "" {
			t.Errorf("%s: left after the cleanup:\n%s", name, got)
		}
	}
}

func list(t *testing.T, pod *lab.Pod) string {
	t.Helper()
	out, err := pod.Command(t.Context(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// world is a Pod with rules and stand-ins for its proxy and application, and
// another Pod.
type world struct {
	pod, other *lab.Pod
}

func newWorld(t *testing.T) world {
	t.Helper()
	l := lab.ForTest(t, lab.Options{})
	w := world{l.MustNode("node1").MustPod("pod"), l.MustNode("node2").MustPod("other")}
	for port, name := range map[int]string{mesh.OutboundPort: "outbound", mesh.InboundPort: "inbound", 8080: "app", mesh.HealthPort: "health"} {
		serve(t, w.pod, port, name)
	}
	for _, port := range []int{8080, mesh.ControlPlanePort} {
		serve(t, w.other, port, "other")
	}
	return w
}

// serve answers each connection with its own name, where the connection was
// meant to go, and whom it came from.
func serve(t *testing.T, pod *lab.Pod, port int, name string) {
	t.Helper()
	ln, err := pod.Listen("tcp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "%s %s", name, meant(c.(*net.TCPConn)))
			_ = c.Close()
		}
	}()
}

// meant is the address that the client connected to: SO_ORIGINAL_DST of
// linux/netfilter_ipv4.h.
func meant(c *net.TCPConn) string {
	local := c.LocalAddr().(*net.TCPAddr)
	if local.IP.IsLoopback() && local.Port < 15000 {
		return ""
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	out := local.AddrPort()
	err = errors.Join(raw.Control(func(fd uintptr) {
		const originalDst = 80
		if local.IP.To4() != nil {
			a, err := unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, originalDst)
			if err == nil {
				m := a.Multiaddr
				out = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[4:8])), uint16(m[2])<<8|uint16(m[3]))
			}
			return
		}
		a, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.IPPROTO_IPV6, originalDst)
		if err == nil {
			out = netip.AddrPortFrom(netip.AddrFrom16(a.Addr.Addr), a.Addr.Port<<8|a.Addr.Port>>8)
		}
	}))
	if err != nil {
		return err.Error()
	}
	return netip.AddrPortFrom(out.Addr().Unmap(), out.Port()).String()
}

// dial connects as a user, from an address if it is valid, and returns who
// answered.
func dial(pod *lab.Pod, uid int, from netip.Addr, to netip.AddrPort) string {
	var answer string
	err := pod.Do(func() error {
		old, err := unix.SetfsuidRetUid(uid)
		if err != nil {
			return err
		}
		defer func() { _, _ = unix.SetfsuidRetUid(old) }()
		d := net.Dialer{Timeout: 5 * time.Second}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err := d.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 256)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	})
	if err != nil {
		return "error: " + err.Error()
	}
	return answer
}

func TestPackets(t *testing.T) {
	w := newWorld(t)
	app, proxy := 1000, mesh.ProxyUID
	any := netip.Addr{}
	type family struct {
		own, other, self netip.Addr
	}
	families := map[string]family{
		"IPv4": {w.pod.IPv4(), w.other.IPv4(), netip.MustParseAddr("127.0.0.6")},
		"IPv6": {w.pod.IPv6(), w.other.IPv6(), netip.IPv6Loopback()},
	}
	at := netip.AddrPortFrom
	check := func(what string, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	if err := redirect.Apply(redirect.Config{}, w.pod.FD()); err != nil {
		t.Fatal(err)
	}
	for name, f := range families {
		loop := netip.MustParseAddr("127.0.0.1")
		if f.own.Is6() {
			loop = netip.IPv6Loopback()
		}
		check(name+" out", dial(w.pod, app, any, at(f.other, 8080)), "outbound "+at(f.other, 8080).String())
		check(name+" out by the proxy", dial(w.pod, proxy, any, at(f.other, 8080)), "other "+at(f.other, 8080).String())
		check(name+" to the control plane", dial(w.pod, app, any, at(f.other, mesh.ControlPlanePort)), "other "+at(f.other, mesh.ControlPlanePort).String())
		check(name+" in", dial(w.other, app, any, at(f.own, 8080)), "inbound "+at(f.own, 8080).String())
		check(name+" in to the health port", dial(w.other, app, any, at(f.own, mesh.HealthPort)), "health "+at(f.own, mesh.HealthPort).String())
		check(name+" to itself", dial(w.pod, app, any, at(f.own, 8080)), "app "+at(f.own, 8080).String())
		check(name+" to localhost", dial(w.pod, app, any, at(loop, 8080)), "app ")
		check(name+" to itself by the proxy", dial(w.pod, proxy, any, at(f.own, 8080)), "inbound "+at(f.own, 8080).String())
		check(name+" from the proxy to its application", dial(w.pod, proxy, f.self, at(f.own, 8080)), "app "+at(f.own, 8080).String())
		check(name+" to localhost by the proxy", dial(w.pod, proxy, any, at(loop, 8080)), "app ")
	}
	pc, err := w.other.ListenPacket("udp", ":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	u, err := w.pod.DialContext(ctx, "udp", at(w.other.IPv4(), 9000).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	if _, err := u.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := pc.ReadFrom(make([]byte, 8)); err != nil {
		t.Errorf("UDP: %v", err)
	}

	if err := redirect.Cleanup(w.pod.FD()); err != nil {
		t.Fatal(err)
	}
	for name, f := range families {
		check(name+" out after the cleanup", dial(w.pod, app, any, at(f.other, 8080)), "other "+at(f.other, 8080).String())
		check(name+" in after the cleanup", dial(w.other, app, any, at(f.own, 8080)), "app "+at(f.own, 8080).String())
	}
}

func TestRemedy(t *testing.T) {
	err := error(&redirect.Error{Op: "apply", Err: unix.EPERM, Remedy: "do this"})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "do this") {
		t.Errorf("%v", err)
	}
}
