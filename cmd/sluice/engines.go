package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/nftables"
)

// engineKind is one way to make the kernel do what a plan says.
type engineKind struct {
	name string // a value of proxy.mode
	// auto tells that it may be taken where no engine is asked for.
	auto bool
	// probe returns why this machine cannot run it, and changes nothing.
	probe func(config.Proxy) error
	open  func(config.Proxy, *slog.Logger) (proxy.Engine, error)
	// cleaners remove what any process has made with it, each on its own.
	cleaners []cleaner
}

// cleaner removes the rules of one variant of an engine.
type cleaner struct {
	name  string
	clean func(context.Context) error
}

// engineKinds lists the engines, the best first. IPVS is never taken by itself:
// Kubernetes is giving it up, and it is there for those who ask for it.
func engineKinds() []engineKind {
	return []engineKind{
		{
			name: "nftables", auto: true,
			probe: func(config.Proxy) error { return nftables.Probe() },
			open: func(c config.Proxy, log *slog.Logger) (proxy.Engine, error) {
				return nftables.New(nftables.Options{MasqueradeMark: c.MasqueradeMark, Log: log})
			},
			cleaners: []cleaner{{"nftables", func(ctx context.Context) error {
				e, err := nftables.New(nftables.Options{})
				return cleanEngine(ctx, e, err)
			}}},
		},
	}
}

// cleanEngine removes what an engine has made, if the machine can run it: what
// it cannot run, it cannot have made.
func cleanEngine(ctx context.Context, e proxy.Engine, err error) error {
	if _, unsupported := errors.AsType[*proxy.UnsupportedError](err); unsupported {
		return err
	}
	if err != nil {
		return err
	}
	return errors.Join(e.Cleanup(ctx), e.Close())
}

// probed is an engine and why it cannot run here; nil: it can.
type probed struct {
	engineKind
	err error
}

func probeEngines(c config.Proxy) []probed {
	var out []probed
	for _, k := range engineKinds() {
		out = append(out, probed{k, k.probe(c)})
	}
	return out
}

// chooseEngine returns the engine for a mode: the one of that name, or for
// "auto" the first that this machine can run. An engine that is asked for by its
// name is never replaced by another.
func chooseEngine(mode string, engines []probed) (engineKind, error) {
	var reasons []error
	for _, e := range engines {
		switch {
		case mode == e.name:
			return e.engineKind, e.err
		case mode == "auto" && e.auto && e.err == nil:
			return e.engineKind, nil
		case mode == "auto" && e.auto:
			reasons = append(reasons, e.err)
		}
	}
	if mode != "auto" {
		return engineKind{}, fmt.Errorf("proxy.mode: there is no engine %s", mode)
	}
	return engineKind{}, fmt.Errorf("proxy.mode: no engine can run on this machine:\n%w", errors.Join(reasons...))
}

// cleanOthers removes what other engines have left, after the chosen one has
// taken over.
func cleanOthers(ctx context.Context, chosen string, engines []engineKind, log *slog.Logger) {
	for _, k := range engines {
		if k.name == chosen {
			continue
		}
		for _, c := range k.cleaners {
			err := c.clean(ctx)
			if _, unsupported := errors.AsType[*proxy.UnsupportedError](err); err != nil && !unsupported && ctx.Err() == nil {
				log.Warn("what another engine has left stays", "engine", c.name, "error", strings.TrimPrefix(err.Error(), c.name+": "))
			}
		}
	}
}
