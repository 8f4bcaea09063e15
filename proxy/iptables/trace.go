package iptables

import (
	"context"
	"errors"

	"github.com/sluicenet/sluice/proxy"
)

// Trace implements [proxy.Tracer].
func (e *Engine) Trace(ctx context.Context, d proxy.Decision) (proxy.Observed, error) {
	return proxy.Observed{}, errors.New("not yet")
}
