package enginetest_test

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/enginetest"
	"github.com/sluicenet/sluice/proxy/nftables"
)

var nftablesEngine = enginetest.Engine{
	Name: "nftables",
	New: func(o enginetest.Options) (proxy.Engine, error) {
		return nftables.New(nftables.Options{NetNS: o.NetNS, Intercept: o.Intercept, Log: o.Log})
	},
	Damage: []enginetest.Damage{
		{Name: "a NodePort deleted", Command: strings.Fields("nft delete element ip sluice nodeports { tcp . 32100 }")},
		{Name: "slots flushed", Command: strings.Fields("nft flush map ip6 sluice slots")},
		{Name: "services flushed", Command: strings.Fields("nft flush chain ip sluice services")},
		{Name: "a chain emptied", Command: strings.Fields("nft flush chain ip sluice postrouting")},
		{Name: "pods flushed", Command: strings.Fields("nft flush set ip sluice pods")},
		{Name: "a rule added", Command: strings.Fields("nft insert rule ip sluice prerouting tcp dport 80 drop")},
		{Name: "table dormant", Command: strings.Fields("nft add table ip sluice { flags dormant; }")},
		{Name: "policy drop", Command: strings.Fields("nft chain ip6 sluice prerouting { policy drop; }")},
		{Name: "a chain added", Command: strings.Fields("nft add chain ip sluice evil { type filter hook prerouting priority -300; policy drop; }")},
		{Name: "table deleted", Command: strings.Fields("nft delete table ip sluice")},
		{Name: "ruleset flushed", Command: strings.Fields("nft flush ruleset")},
	},
	Dump: func(ctx context.Context, w *enginetest.World) (string, error) {
		text, err := w.Command(ctx, "nft", "-s", "list", "ruleset")
		return expiring.ReplaceAllString(text, ""), err
	},
	Lock: func(ctx context.Context, w *enginetest.World) (func(), error) {
		return w.Hold(ctx, "nft", "-i", "delete table ip sluice; add table ip sluice { flags owner; }")
	},
}

// expiring is what changes by itself in a listing.
var expiring = regexp.MustCompile(`(?m) expires [0-9a-z]+|^.*@affinity.*$`)

func TestNFTables(t *testing.T) { all(t, nftablesEngine) }
