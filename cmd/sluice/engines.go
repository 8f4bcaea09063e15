package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/iptables"
	"github.com/sluicenet/sluice/proxy/ipvs"
	"github.com/sluicenet/sluice/proxy/nftables"
)

// engineKind is one way to make the kernel do what a plan says.
type engineKind struct {
	name string // a value of proxy.mode
	// auto tells that it may be taken where no engine is asked for.
	auto bool
	// probe returns why this machine cannot run it. It changes no rules.
	probe func(context.Context, config.Proxy) error
	open  func(config.Proxy, *slog.Logger) (proxy.Engine, error)
	// clean removes what any process has made with it.
	clean func(context.Context) error
}

// engineKinds lists the engines, the best first. IPVS is never taken by itself:
// it does less well what the others do, Kubernetes is giving it up, and even to
// look for it loads modules. It is there for those who ask for it.
func engineKinds() []engineKind {
	return []engineKind{
		{
			name: "nftables", auto: true,
			probe: func(context.Context, config.Proxy) error { return nftables.Probe() },
			open: func(c config.Proxy, log *slog.Logger) (proxy.Engine, error) {
				return opened(nftables.New(nftables.Options{MasqueradeMark: c.MasqueradeMark, Traffic: c.TrafficBytes, Log: log}))
			},
			clean: func(ctx context.Context) error {
				e, err := nftables.New(nftables.Options{})
				return cleanEngine(ctx, e, err)
			},
		},
		{
			name: "iptables", auto: true,
			probe: func(ctx context.Context, c config.Proxy) error {
				o, err := iptablesOptions(c)
				if err != nil {
					return err
				}
				return iptables.Probe(ctx, o)
			},
			open: func(c config.Proxy, log *slog.Logger) (proxy.Engine, error) {
				o, err := iptablesOptions(c)
				if err != nil {
					return nil, err
				}
				o.Log = log
				return opened(iptables.New(o))
			},
			clean: func(ctx context.Context) error {
				e, err := iptables.New(iptables.Options{})
				return cleanEngine(ctx, e, err)
			},
		},
		{
			name:  "ipvs",
			probe: func(context.Context, config.Proxy) error { return ipvs.Probe() },
			open: func(c config.Proxy, log *slog.Logger) (proxy.Engine, error) {
				return opened(ipvs.New(ipvs.Options{
					MasqueradeMark: c.MasqueradeMark, Scheduler: c.IPVS.Scheduler, StrictARP: c.IPVS.StrictARP, ExcludeCIDRs: c.IPVS.ExcludeCIDRs,
					DrainTimeout: c.IPVS.DrainTimeout.Duration, TCPTimeout: c.IPVS.TCPTimeout.Duration,
					TCPFinTimeout: c.IPVS.TCPFinTimeout.Duration, UDPTimeout: c.IPVS.UDPTimeout.Duration, Log: log,
				}))
			},
			clean: func(ctx context.Context) error {
				if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
					return nil // the module is not loaded, and should not be for this
				}
				e, err := ipvs.New(ipvs.Options{})
				return cleanEngine(ctx, e, err)
			},
		},
	}
}

// opened keeps a nil pointer from becoming an engine.
func opened[E proxy.Engine](e E, err error) (proxy.Engine, error) {
	if err != nil {
		return nil, err
	}
	return e, nil
}

func iptablesOptions(c config.Proxy) (iptables.Options, error) {
	variant, err := iptables.ParseVariant(c.IPTables.Variant)
	if err != nil {
		return iptables.Options{}, fmt.Errorf("proxy.iptables.variant: %w", err)
	}
	return iptables.Options{Variant: variant, MasqueradeMark: c.MasqueradeMark, ForwardInvalid: c.Conntrack.TCPBeLiberal}, nil
}

// cleanEngine removes what an engine has made. What this machine cannot run, it
// has not made, unless it is for want of rights.
func cleanEngine(ctx context.Context, e proxy.Engine, err error) error {
	if err == nil {
		err = errors.Join(e.Cleanup(ctx), e.Close())
	}
	if _, unsupported := errors.AsType[*proxy.UnsupportedError](err); unsupported && !errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// chooseEngine returns the engine for a mode: the one of that name, or for
// "auto" the first that the probe finds usable. An engine that is asked for by
// its name is never replaced by another.
func chooseEngine(mode string, kinds []engineKind, probe func(engineKind) error) (engineKind, error) {
	var reasons []error
	for _, k := range kinds {
		if mode == k.name {
			return k, probe(k)
		}
		if mode != "auto" || !k.auto {
			continue
		}
		err := probe(k)
		if err == nil {
			return k, nil
		}
		reasons = append(reasons, err)
	}
	if mode != "auto" {
		return engineKind{}, fmt.Errorf("proxy.mode: there is no engine %q", mode)
	}
	return engineKind{}, fmt.Errorf("proxy.mode: no engine can run on this machine:\n%w", errors.Join(reasons...))
}

// engineFor chooses by what this machine can run.
func engineFor(ctx context.Context, c config.Proxy) (engineKind, error) {
	return chooseEngine(c.Mode, engineKinds(), func(k engineKind) error { return k.probe(ctx, c) })
}

// cleanOthers removes what other engines have left, after the chosen one has
// taken over.
func cleanOthers(ctx context.Context, chosen string, kinds []engineKind, log *slog.Logger) {
	for _, k := range kinds {
		if k.name == chosen {
			continue
		}
		if err := k.clean(ctx); err != nil && ctx.Err() == nil {
			log.Warn("what another engine has left stays", "engine", k.name, "error", err)
		}
	}
}
