package nftables

import (
	"context"

	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// monitor learns what others change; [*nfnl.Monitor] is one.
type monitor interface {
	Join() error
	Leave() error
	Read(each func(nfnl.Message)) (lost bool, err error)
	Close()
}

// listen has the monitor learn from now on. Not before all is programmed, for
// the kernel would notify of each element.
func (e *Engine) listen(ctx context.Context) error {
	if e.monitor == nil {
		return nil
	}
	if err := e.monitor.Join(); err != nil {
		e.log.Warn("changes of others to nftables are found by looking only", "error", err)
		e.monitor.Close()
		e.monitor = nil
		return nil
	}
	// What happened before, nobody has heard.
	generation, err := e.generation(ctx)
	if e.drift.others || generation != e.drift.generation {
		e.drift.others, e.drift.suspect, e.drift.generation = false, true, generation
	}
	return err
}

// deaf ends that.
func (e *Engine) deaf() {
	if e.monitor != nil {
		_ = e.monitor.Leave()
	}
}

// hear notes whether what others have changed since is ours. Without a monitor,
// or if it missed something, it may be.
func (e *Engine) hear() {
	if e.monitor == nil {
		e.drift.suspect = true
		return
	}
	lost, err := e.monitor.Read(func(msg nfnl.Message) {
		if len(msg.Body) < 4 {
			return
		}
		if table, _ := names(msg, 0); table == e.table {
			e.drift.touched = true
		}
	})
	if lost || err != nil {
		e.drift.suspect = true
	}
}
