package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestNodePortsOfFlags gives flags in either order: kube-proxy's switch for loopback
// must never open what the list of addresses closes.
func TestNodePortsOfFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                                     "",
		"--proxy-mode=iptables":                "all localhost",
		"--proxy-mode=nftables":                "",
		"--proxy-mode=ipvs":                    "",
		"--iptables-localhost-nodeports":       "all localhost",
		"--iptables-localhost-nodeports=false": "all",
		"--proxy-mode=iptables --iptables-localhost-nodeports=false":                                   "all",
		"--proxy-mode=nftables --iptables-localhost-nodeports":                                         "",
		"--proxy-mode=ipvs --iptables-localhost-nodeports=false --nodeport-addresses=127.0.0.0/8":      "127.0.0.0/8",
		"--proxy-mode=iptables --nodeport-addresses=10.0.0.0/8":                                        "10.0.0.0/8",
		"--proxy-mode=iptables --nodeport-addresses=all":                                               "all",
		"--proxy-mode=iptables --nodeport-addresses=primary":                                           "primary",
		"--nodeport-addresses=10.0.0.0/8 --iptables-localhost-nodeports":                               "10.0.0.0/8",
		"--nodeport-addresses=127.0.0.0/8 --iptables-localhost-nodeports":                              "127.0.0.0/8",
		"--nodeport-addresses=0.0.0.0/0 --iptables-localhost-nodeports":                                "0.0.0.0/0 localhost",
		"--nodeport-addresses=all --iptables-localhost-nodeports":                                      "all localhost",
		"--nodeport-addresses=127.0.0.0/8 --iptables-localhost-nodeports=false":                        "none",
		"--nodeport-addresses=localhost --iptables-localhost-nodeports=false":                          "none",
		"--nodeport-addresses=all,localhost --iptables-localhost-nodeports=false":                      "all",
		"--nodeport-addresses=10.0.0.0/8,127.0.0.0/8 --iptables-localhost-nodeports=false":             "10.0.0.0/8",
		"--nodeport-addresses=10.0.0.0/8,::1/128 --iptables-localhost-nodeports=false":                 "10.0.0.0/8 none",
		"--nodeport-addresses=127.0.0.0/8,fd00::/64 --iptables-localhost-nodeports=false":              "fd00::/64 none",
		"--nodeport-addresses=10.0.0.0/8,localhost --iptables-localhost-nodeports=false":               "10.0.0.0/8 none",
		"--nodeport-addresses=primary,localhost --iptables-localhost-nodeports=false":                  "primary",
		"--nodeport-addresses=10.0.0.0/8,fd00::/64,localhost,::1/128 --iptables-localhost-nodeports=0": "10.0.0.0/8 fd00::/64",
	} {
		for _, reversed := range []bool{false, true} {
			list := strings.Fields(args)
			if reversed {
				slices.Reverse(list)
			}
			c := Default()
			set := pflag.NewFlagSet("", pflag.ContinueOnError)
			c.Flags(set)
			if err := set.Parse(list); err != nil {
				t.Fatal(err)
			}
			c.Complete()
			if got := strings.Join(c.Proxy.NodePortAddresses, " "); got != want {
				t.Errorf("%q: %q, want %q", list, got, want)
			}
			if err := c.Validate(); err != nil {
				t.Errorf("%q: %v", list, err)
			}
		}
	}
}

// TestNodePortsOfFile gives kube-proxy's switch after a file that restricts the
// addresses: those stay.
func TestNodePortsOfFile(t *testing.T) {
	c, err := load(t, head+"proxy: {nodePortAddresses: [10.0.0.0/8, 127.0.0.0/8]}\n", "--iptables-localhost-nodeports=false")
	if err != nil {
		t.Fatal(err)
	}
	c.Complete()
	if got := strings.Join(c.Proxy.NodePortAddresses, " "); got != "10.0.0.0/8" {
		t.Errorf("answering are %q", got)
	}
	c, err = load(t, head+"proxy: {mode: iptables}\n")
	if err != nil {
		t.Fatal(err)
	}
	c.Complete()
	if got := strings.Join(c.Proxy.NodePortAddresses, " "); got != "all localhost" {
		t.Errorf("answering are %q", got)
	}
}

// TestServers gives the flags of kube-proxy's servers in either order. A port says
// something only of an address without one; port 0 is no server.
func TestServers(t *testing.T) {
	for args, want := range map[string]string{
		"":                                 ":10256",
		"--healthz-port=1":                 ":10256",
		"--healthz-port=0":                 "",
		"--healthz-bind-address=192.0.2.1": "192.0.2.1:10256",
		"--healthz-bind-address=192.0.2.1 --healthz-port=1":   "192.0.2.1:1",
		"--healthz-bind-address=192.0.2.1:2 --healthz-port=1": "192.0.2.1:2",
		"--healthz-bind-address=192.0.2.1:2 --healthz-port=0": "",
		"--healthz-bind-address= --healthz-port=1":            "",
		"--healthz-bind-address=fd00::1":                      "[fd00::1]:10256",
	} {
		for _, reversed := range []bool{false, true} {
			list := strings.Fields(args)
			if reversed {
				slices.Reverse(list)
			}
			c := Default()
			c.Proxy.ForNode()
			set := pflag.NewFlagSet("", pflag.ContinueOnError)
			c.Flags(set)
			if err := set.Parse(list); err != nil {
				t.Fatal(err)
			}
			if err := Replay(set, Given(set)); err != nil {
				t.Fatal(err)
			}
			if c.Proxy.Healthz != want {
				t.Errorf("%q: %q, want %q", list, c.Proxy.Healthz, want)
			}
		}
	}
}
