package nftables

import "github.com/sluicenet/sluice/proxy/internal/nfnl"

// intercepted is a kernel whose transactions go by a function of [Options].
type intercepted struct {
	kernel
	by func(do func() error) error
}

func (k intercepted) Commit(m *nfnl.Messages) error {
	return k.by(func() error { return k.kernel.Commit(m) })
}
