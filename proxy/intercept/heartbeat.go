package intercept

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// question is what the server is asked. It is shorter than the header of a DNS
// message, so that it is none.
var question = []byte("alive?")

// ask asks the server at each address. What it answers renews the address in the
// kernel by itself.
func (i *Interceptor) ask() {
	if i.state.Load() != stateCurrent {
		return
	}
	for _, f := range i.plan.Families {
		for slot := range f.Captured {
			to := netip.AddrPortFrom(server(f.Family, i.claim.seat, slot), Port)
			// What is not sent is not answered, and that is what counts.
			_, _ = i.claim.conn[f.Family].WriteToUDPAddrPort(question, to)
		}
	}
}

// listen takes the answers, which come from the addresses that clients know.
func (i *Interceptor) listen(ctx context.Context, f proxy.Family, conn *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 16)
	for {
		_, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err == nil && proxy.FamilyOf(from.Addr().Unmap()) == f:
			i.answered.at(from.Addr().Unmap(), time.Now())
		}
	}
}

// answered is when the server last answered at each address.
type answered struct {
	mu   sync.Mutex // guards last
	last map[netip.Addr]time.Time
}

func (a *answered) at(addr netip.Addr, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.last = map[netip.Addr]time.Time{}
	}
	a.last[addr] = now
}

// alive reports whether the address is intercepted, as far as is known here.
func (a *answered) alive(addr netip.Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.last[addr]
	return ok && now.Sub(last) < Patience
}
