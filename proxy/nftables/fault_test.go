package nftables

import (
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// failing is a kernel that does so many transactions and then no more.
type failing struct {
	kernel
	after int
}

func (f *failing) Commit(m *nfnl.Messages) error {
	if f.after--; f.after < 0 {
		return unix.ENOBUFS
	}
	return f.kernel.Commit(m)
}
