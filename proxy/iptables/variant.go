package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Variant is one of the two implementations of iptables, of which each has rules
// of its own in the kernel.
type Variant string

// The variants. Auto is the one that the kubelet has left its chains in, or else
// the one that the name "iptables" stands for.
const (
	Auto   Variant = ""
	NFT    Variant = "nft"
	Legacy Variant = "legacy"
)

// ParseVariant reads the name of a variant; "auto" and the empty one are [Auto].
func ParseVariant(s string) (Variant, error) {
	switch v := Variant(s); v {
	case Auto, NFT, Legacy:
		return v, nil
	case "auto":
		return Auto, nil
	}
	return Auto, fmt.Errorf(`iptables: no variant %q: it is "auto", "nft" or "legacy"`, s)
}

var families = [...]proxy.Family{proxy.IPv4, proxy.IPv6}

// lookup finds the programs of a variant. IPv6 may be missing.
func (e *Engine) lookup(v Variant) (*commands, error) {
	c := &commands{netns: e.netns, legacy: v == Legacy, programs: map[proxy.Family]programs{}, intercept: e.options.Intercept}
	var missing error
	for _, f := range families {
		base := "iptables"
		if f == proxy.IPv6 {
			base = "ip6tables"
		}
		p, err := lookupNames(base + "-" + string(v))
		if err != nil {
			// A distribution with one variant alone may not name it.
			if plain, also := lookupNames(base); also == nil && variantOf(plain.tables) == v {
				p, err = plain, nil
			}
		}
		if err != nil {
			missing = err
			continue
		}
		c.programs[f] = p
	}
	if _, ok := c.programs[proxy.IPv4]; !ok {
		return nil, missing
	}
	return c, nil
}

func lookupNames(base string) (p programs, err error) {
	for name, path := range map[string]*string{base: &p.tables, base + "-restore": &p.restore, base + "-save": &p.save} {
		if *path, err = exec.LookPath(name); err != nil {
			return programs{}, err
		}
	}
	return p, nil
}

// variantOf asks a program what it is.
func variantOf(path string) Variant {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	switch {
	case err != nil:
		return Auto
	case strings.Contains(string(out), "nf_tables"):
		return NFT
	}
	return Legacy
}

// find chooses the variant, and finds its programs.
func (e *Engine) find() error {
	all := map[Variant]*commands{}
	var missing error
	for _, v := range []Variant{Legacy, NFT} {
		c, err := e.lookup(v)
		if err != nil {
			missing = err
			continue
		}
		all[v] = c
	}
	e.variant = e.options.Variant
	if e.variant == Auto && len(all) > 0 {
		e.variant = e.inUse(all)
	}
	c := all[e.variant]
	if c == nil {
		feature := "iptables is not installed"
		if e.variant != Auto {
			feature = fmt.Sprintf("the %s variant of iptables is not installed", e.variant)
		}
		return &proxy.UnsupportedError{Engine: "iptables", Feature: feature, Remedy: "install the package iptables, version 1.6.2 or later", Err: missing}
	}
	e.kernel, e.programs = c, c
	for v, o := range all {
		if v != e.variant {
			e.others = append(e.others, o)
		}
	}
	if t, err := goiptables.New(goiptables.Path(c.programs[proxy.IPv4].tables)); err == nil {
		e.random = t.HasRandomFully()
	}
	return nil
}

// inUse returns the variant that the machine uses: of those that are there.
func (e *Engine) inUse(all map[Variant]*commands) Variant {
	for _, v := range []Variant{NFT, Legacy} {
		if c := all[v]; c != nil && (v == NFT || legacyTables(e.netns, proxy.IPv4)["mangle"]) && kubeletUses(e.netns, c.programs[proxy.IPv4].tables) {
			return v
		}
	}
	if path, err := exec.LookPath("iptables"); err == nil {
		if v := variantOf(path); all[v] != nil {
			return v
		}
	}
	if all[NFT] != nil {
		return NFT
	}
	return Legacy
}

// kubeletUses reports whether the kubelet has made its chains with a program.
func kubeletUses(netns int, path string) bool {
	found := false
	_ = nfnl.InNamespace(netns, func() error {
		t, err := goiptables.New(goiptables.Path(path))
		if err != nil {
			return err
		}
		chains, err := t.ListChains("mangle")
		for _, c := range chains {
			found = found || c == "KUBE-IPTABLES-HINT" || c == "KUBE-KUBELET-CANARY"
		}
		return err
	})
	return found
}

// legacyTables returns the tables that the legacy variant has, so that nobody
// makes the kernel load them by asking.
func legacyTables(netns int, f proxy.Family) map[string]bool {
	file := "/proc/thread-self/net/ip_tables_names"
	if f == proxy.IPv6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	out := map[string]bool{}
	_ = nfnl.InNamespace(netns, func() error {
		b, err := os.ReadFile(file)
		for name := range strings.FieldsSeq(string(b)) {
			out[name] = true
		}
		return err
	})
	return out
}

// Probe reports what the machine lacks to run the engine, as a
// [*proxy.UnsupportedError], or nil. It changes nothing: iptables-restore reads
// rules of all kinds, asks the kernel for what they need, and forgets them.
func Probe(ctx context.Context, o Options) error {
	e, err := New(o)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	return e.probe(ctx)
}

// probe finds out which families the machine can do. IPv4 is required.
func (e *Engine) probe(ctx context.Context) error {
	if e.families != nil {
		return nil
	}
	var found [len(families)]*listing
	errs := forFamilies(func(f proxy.Family) (err error) {
		found[slices.Index(families[:], f)], err = e.try(ctx, f)
		return err
	})
	for i, f := range families {
		err := errs[i]
		switch {
		case err == nil:
			e.families = append(e.families, &family{Family: f, found: found[i], printed: map[ref]words{}})
		case f == proxy.IPv4 || ctx.Err() != nil:
			e.families = nil
			return err
		default:
			e.log.Warn("Services have no IPv6 on this node", "error", err)
		}
	}
	return nil
}

// forFamilies calls do for each family, at the same time.
func forFamilies(do func(proxy.Family) error) (errs [len(families)]error) {
	var wait sync.WaitGroup
	for i, f := range families {
		wait.Go(func() { errs[i] = do(f) })
	}
	wait.Wait()
	return errs
}

// try has iptables check all kinds of rules of a family, and list what is there.
func (e *Engine) try(ctx context.Context, f proxy.Family) (found *listing, err error) {
	c, ok := e.kernel.(*commands)
	if !ok {
		return nil, nil
	}
	p, ok := c.programs[f]
	if !ok {
		return nil, &proxy.UnsupportedError{Engine: "iptables", Feature: "there is no ip6tables", Remedy: "install the package iptables", Err: exec.ErrNotFound}
	}
	addr := netip.MustParseAddr("192.0.2.1")
	if f == proxy.IPv6 {
		addr = netip.MustParseAddr("2001:db8::1")
	}
	backends := []proxy.Backend{{AddrPort: netip.AddrPortFrom(addr, 80), Weight: 1, Place: proxy.Here}, {AddrPort: netip.AddrPortFrom(addr, 81), Weight: 1}}
	all := &proxy.Service{Name: model.Name{Namespace: "probe", Name: "probe"}, Ports: []*proxy.Port{{
		Family: f, Protocol: proxy.SCTP, Port: 80, Affinity: time.Hour, Cluster: backends,
		Frontends: []proxy.Frontend{{Addr: addr, Port: 80, Inside: proxy.ToCluster, Outside: proxy.Drop, Masquerade: proxy.MasqueradeAlways}},
	}}}
	s := newRuleset(e.renderer(f, &proxy.Node{})).compare(&listing{chains: map[ref][]string{}}, slices.Values([]*proxy.Service{all}), nil)
	// A run that changes nothing does not find in a table what it made there.
	var text bytes.Buffer
	for _, x := range s.sections()[:2] {
		x.text(&text)
	}
	err = c.change(ctx, text.Bytes(), p.restore, "--noflush", "--test", "--wait", strconv.Itoa(lockSeconds))
	if err == nil {
		found, err = list(ctx, c, f)
	}
	return found, unsupported(err)
}

// unsupported turns what iptables says of something missing into an error that
// tells what to do. Other errors stay as they are.
func unsupported(err error) error {
	if err == nil {
		return nil
	}
	u := &proxy.UnsupportedError{Engine: "iptables", Err: err}
	var said string
	if c, ok := errors.AsType[*CommandError](err); ok {
		said = c.Said
	}
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(said, p) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, errIncompatible):
		u.Feature = "another program has put rules of its own into the tables of iptables-nft"
		u.Remedy = "have them put into a table of their own, see nft list ruleset, or use the legacy variant"
	case has("Permission denied", "Operation not permitted"), errors.Is(err, unix.EPERM),
		has("nable to initialize", "can't initialize") && powerless():
		u.Feature, u.Remedy = "the kernel denies access to the packet filter", "run as root, or with the capability CAP_NET_ADMIN in the network namespace"
	case has("Table does not exist", "nable to initialize", "can't initialize", "Protocol not supported"):
		u.Feature = "the kernel lacks the tables nat and filter"
		u.Remedy = "load the modules iptable_nat, iptable_filter, ip6table_nat and ip6table_filter, or, for the nft variant, nf_tables and nft_compat"
	case has("missing kernel module", "Couldn't load", "No chain/target/match by that name", "not supported"):
		u.Feature = "a match or target is missing"
		u.Remedy = "load the modules xt_statistic, xt_recent, xt_addrtype, xt_conntrack, xt_comment, xt_mark, xt_nat, xt_MASQUERADE, ipt_REJECT and ip6t_REJECT"
	default:
		return fmt.Errorf("iptables: %w", err)
	}
	return u
}

// powerless reports whether the process lacks CAP_NET_ADMIN, of which the legacy
// variant says the same as of a missing table.
func powerless() bool {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return err == nil && bits&(1<<unix.CAP_NET_ADMIN) == 0
		}
	}
	return false
}
