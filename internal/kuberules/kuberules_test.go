package kuberules

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// others are what is not kube-proxy's: somebody's own rules, a kubelet's chains.
const others = `*filter
:INPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:OWN - [0:0]
-A INPUT -j OWN
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -d 10.0.0.1/32 -j DROP
-A OWN -s 10.0.0.2/32 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 10.0.0.3/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.4:80
COMMIT
*mangle
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
`

// kubeProxy is what kube-proxy adds in its modes iptables and ipvs, in short.
const kubeProxy = `*filter
:KUBE-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SEP-ABCDEFGHIJKLMNOP - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "a -j KUBE-FIREWALL b" -j KUBE-SEP-ABCDEFGHIJKLMNOP
-A KUBE-SEP-ABCDEFGHIJKLMNOP -p tcp -m tcp -j DNAT --to-destination 10.244.0.4:53
COMMIT
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
`

const nftMode = `table ip kube-proxy {
	chain services { }
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
}
table ip6 kube-proxy { }
table ip sluice {
	chain keep { }
}
`

var counters = regexp.MustCompile(`\[\d+:\d+\]|#.*\n|handle \d+`)

// TestRemove puts a kube-proxy's rules among others, in both variants of
// iptables and in nftables, and wants the others as they were.
func TestRemove(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node1")
	run := func(stdin, program string, args ...string) string {
		t.Helper()
		var out []byte
		err := node.Do(func() (err error) {
			cmd := exec.CommandContext(t.Context(), program, args...)
			cmd.Stdin = strings.NewReader(stdin)
			out, err = cmd.CombinedOutput()
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v %s", program, err, out)
		}
		return counters.ReplaceAllString(string(out), "")
	}
	variants := []string{"iptables-nft", "ip6tables-nft"}
	if err := node.Do(func() error { return exec.CommandContext(t.Context(), "iptables-legacy", "-t", "nat", "-L").Run() }); err == nil {
		variants = append(variants, "iptables-legacy", "ip6tables-legacy")
	} else {
		t.Logf("this kernel has no iptables-legacy: %v", err)
	}
	state := func() string {
		var out string
		for _, v := range variants {
			out += v + "\n" + run("", v+"-save")
		}
		return out + run("", "nft", "list", "tables")
	}
	find := func() []Leftover {
		t.Helper()
		var found []Leftover
		if err := node.Do(func() (err error) { found, err = Find(t.Context()); return err }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	six := strings.NewReplacer("10.0.0.", "fd00::", "10.96.0.10/32", "fd00::a/128", "10.244.0.4:53", "[fd00::4]:53", "/32", "/128", ":80\n", "\n").Replace
	for _, v := range variants {
		text := others
		if strings.HasPrefix(v, "ip6") {
			text = six(others)
		}
		run(text, v+"-restore")
	}
	run("table ip sluice {\nchain keep {\n}\n}\n", "nft", "-f", "-")
	if found := find(); len(found) != 0 {
		t.Fatalf("found %v where no kube-proxy was", names(found))
	}
	before := state()
	for _, v := range variants {
		text := kubeProxy
		if strings.HasPrefix(v, "ip6") {
			text = six(kubeProxy)
		}
		run(text, v+"-restore", "--noflush")
	}
	run(nftMode, "nft", "-f", "-")

	found := find()
	// A table of each family, and in each variant nat, filter and mangle.
	if want := 2 + 3*len(variants); len(found) != want {
		t.Errorf("found %d: %v, want %d", len(found), names(found), want)
	}
	for _, f := range found {
		if err := node.Do(func() error { return f.Remove(t.Context()) }); err != nil {
			t.Error(err)
		}
	}
	if again := find(); len(again) != 0 {
		t.Errorf("still there: %v", names(again))
	}
	if after := state(); after != before {
		t.Errorf("others' rules changed from\n%s\nto\n%s", before, after)
	}
}

func names(found []Leftover) []string {
	var out []string
	for _, f := range found {
		out = append(out, f.What)
	}
	return out
}

// TestManyChains removes more chains than go into one transaction.
func TestManyChains(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node1")
	var b strings.Builder
	b.WriteString("*nat\n")
	for _, a := range "ABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZ" {
			b.WriteString(":KUBE-SVC-" + string(a) + string(c) + " - [0:0]\n")
		}
	}
	b.WriteString("-A PREROUTING -j KUBE-SVC-AA\n-A KUBE-SVC-AA -j KUBE-SVC-ZZ\nCOMMIT\n")
	err := node.Do(func() error {
		cmd := exec.CommandContext(t.Context(), "iptables-nft-restore")
		cmd.Stdin = strings.NewReader(b.String())
		if err := cmd.Run(); err != nil {
			return err
		}
		found, err := Find(t.Context())
		if err != nil || len(found) != 1 || found[0].What != "676 chains KUBE-* in table ip nat of iptables-nft" {
			t.Errorf("found %v %v", names(found), err)
		}
		for _, f := range found {
			if err := f.Remove(t.Context()); err != nil {
				return err
			}
		}
		if found, err := Find(t.Context()); len(found) > 0 || err != nil {
			t.Errorf("still there: %v %v", names(found), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDevice removes the interface of kube-proxy's IPVS mode, of whatever type.
func TestDevice(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node1")
	err := node.Do(func() error {
		if out, err := exec.CommandContext(t.Context(), "ip", "link", "add", device, "type", "veth").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		found, err := Find(context.Background())
		if err != nil || len(found) != 1 || found[0].What != "interface kube-ipvs0" {
			t.Errorf("found %v %v", names(found), err)
		}
		for _, f := range found {
			if err := f.Remove(t.Context()); err != nil {
				return err
			}
		}
		found, err = Find(t.Context())
		if len(found) > 0 {
			t.Errorf("still there: %v", names(found))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRemoval(t *testing.T) {
	script, n := removal([]byte("# x\n*nat\n:PREROUTING ACCEPT [1:2]\n:KUBE-SVC-A - [0:0]\n:KUBE-FIREWALL - [0:0]\n-A PREROUTING -m comment --comment \"x\" -j KUBE-SVC-A\n-A PREROUTING -j KUBE-FIREWALL\n-A KUBE-SVC-A -j ACCEPT\nCOMMIT\n"))
	want := "*nat\n:KUBE-SVC-A - [0:0]\n-D PREROUTING -m comment --comment \"x\" -j KUBE-SVC-A\n-X KUBE-SVC-A\nCOMMIT\n"
	if string(script) != want || n != 1 {
		t.Errorf("%d\n%s", n, script)
	}
	if script, n := removal([]byte("*nat\n:PREROUTING ACCEPT [1:2]\nCOMMIT\n")); script != nil || n != 0 {
		t.Errorf("%d %s", n, script)
	}
}

// FuzzRemoval wants no crash, and no chain that is not kube-proxy's in a script.
func FuzzRemoval(f *testing.F) {
	f.Add([]byte(others))
	f.Add([]byte(kubeProxy))
	f.Fuzz(func(t *testing.T, saved []byte) {
		script, _ := removal(saved)
		for line := range strings.Lines(string(script)) {
			if rest, ok := strings.CutPrefix(line, "-X "); ok && !kubeProxyChain(strings.TrimSpace(rest)) {
				t.Errorf("deletes %q", line)
			}
		}
	})
}
