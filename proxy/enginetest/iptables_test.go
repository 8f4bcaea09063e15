package enginetest_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/enginetest"
	"github.com/sluicenet/sluice/proxy/iptables"
)

// lockVariable names the file that the legacy variant of iptables locks.
const lockVariable = "XTABLES_LOCKFILE"

func iptablesEngine(v iptables.Variant) enginetest.Engine {
	e := enginetest.Engine{
		Name: "iptables-" + string(v),
		Mark: "SLUICE-",
		New: func(o enginetest.Options) (proxy.Engine, error) {
			return iptables.New(iptables.Options{Variant: v, NetNS: o.NetNS, Intercept: o.Intercept, Log: o.Log})
		},
		Dump: func(ctx context.Context, w *enginetest.World) (string, error) {
			var all strings.Builder
			for _, program := range []string{"iptables-", "ip6tables-"} {
				for _, table := range []string{"nat", "filter"} {
					text, err := w.Command(ctx, program+string(v)+"-save", "-t", table)
					if err != nil {
						return "", err
					}
					all.WriteString(counted.ReplaceAllString(text, ""))
				}
			}
			return all.String(), nil
		},
	}
	for name, command := range map[string]string{
		"a NodePort deleted":       "iptables-V -t nat -F SLUICE-N-tcp-32064",
		"the tree flushed":         "ip6tables-V -t nat -F SLUICE-ADDRESSES",
		"the jump deleted":         "iptables-V -t nat -D PREROUTING -j SLUICE-SERVICES",
		"the jump of v6 deleted":   "ip6tables-V -t filter -D FORWARD -j SLUICE-FORWARD",
		"postrouting emptied":      "iptables-V -t nat -F SLUICE-POSTROUTING",
		"a rule added":             "iptables-V -t nat -I SLUICE-SERVICES -p tcp -j ACCEPT",
		"the firewall emptied":     "iptables-V -t filter -F SLUICE-FIREWALL",
		"the nat table flushed":    "iptables-V -t nat -F",
		"the filter table flushed": "ip6tables-V -t filter -F",
		"a jump made twice":        "iptables-V -t nat -A OUTPUT -j SLUICE-SERVICES",
		"rejection undone":         "iptables-V -t filter -R SLUICE-REJECT 1 -j ACCEPT",
	} {
		e.Damage = append(e.Damage, enginetest.Damage{Name: name, Command: strings.Fields(strings.ReplaceAll(command, "-V", "-"+string(v)))})
	}
	switch v {
	case iptables.NFT:
		e.Damage = append(e.Damage, enginetest.Damage{Name: "ruleset flushed", Command: strings.Fields("nft flush ruleset")})
	case iptables.Legacy:
		e.Lock = func(context.Context, *enginetest.World) (func(), error) {
			f, err := os.OpenFile(os.Getenv(lockVariable), os.O_CREATE|os.O_RDONLY, 0o600)
			if err != nil {
				return nil, err
			}
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				return nil, err
			}
			return func() { _ = f.Close() }, nil
		}
	}
	return e
}

// counted is what changes by itself in a listing.
var counted = regexp.MustCompile(`(?m)^#.*\n| \[[0-9]+:[0-9]+\]$`)

func TestIPTablesNFT(t *testing.T) { all(t, iptablesEngine(iptables.NFT)) }

func TestIPTablesLegacy(t *testing.T) {
	// The machine's own lock is not for a namespace's tables. T.Setenv forbids
	// parallel subtests.
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Setenv(lockVariable, //nolint:usetesting // see above
		filepath.Join(t.TempDir(), "lock")))
	t.Cleanup(func() { must(os.Unsetenv(lockVariable)) })
	all(t, iptablesEngine(iptables.Legacy))
}
