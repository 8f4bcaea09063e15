package iptables

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// watch is the sense of the nft variant. Every transaction of nf_tables makes a
// generation, and what a transaction changes the kernel tells who listens. So
// that other tables than ours may change all the time, and nobody looks at ours.
type watch struct {
	socket     *nfnl.Socket
	monitor    *nfnl.Monitor
	listens    bool
	generation uint32
	// ours is how many transactions have changed rules of ours since rest, and
	// open whether one has that has not ended yet.
	ours int64
	open bool
	lost bool
}

func newWatch(netns int) *watch {
	socket, err := nfnl.Dial(netns)
	if err != nil {
		return nil
	}
	w := &watch{socket: socket}
	if w.monitor, err = nfnl.DialMonitor(netns, socket); err != nil {
		w.monitor = nil
	}
	return w
}

func (w *watch) close() {
	w.socket.Close()
	if w.monitor != nil {
		w.monitor.Close()
	}
}

// hear reads the kernel's notifications, after its generation.
func (w *watch) hear() (generation uint32) {
	generation = generationOf(w.socket)
	if !w.listens {
		return generation
	}
	lost, err := w.monitor.Read(func(msg nfnl.Message) {
		switch kind := int(msg.Kind); {
		case kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN:
			if w.open {
				w.ours++
			}
			w.open = false
		case concernsUs(msg):
			w.open = true
		}
	})
	w.lost = w.lost || lost || err != nil
	return generation
}

func (w *watch) look(bool) bool {
	before := w.generation
	w.generation = w.hear()
	if w.listens && !w.lost {
		odd := w.ours > 0
		w.ours = 0
		return odd || w.generation == 0
	}
	w.lost = false
	return w.generation == 0 || w.generation != before
}

func (w *watch) unsure() bool { return false }

func (w *watch) rest(commits int64) bool {
	before := w.generation
	w.generation = w.hear()
	heard := w.listens && !w.lost
	odd := w.generation == 0 || w.generation != before+uint32(commits) && (!heard || w.ours != commits)
	w.ours, w.lost = 0, false
	return odd
}

// deaf stops listening: of a step that writes much, the kernel would tell of
// each rule.
func (w *watch) deaf() {
	if w.listens {
		_ = w.monitor.Leave()
		w.listens = false
	}
}

// listen begins to listen. What was before, the generation tells alone.
func (w *watch) listen() {
	if w.listens || w.monitor == nil {
		return
	}
	w.listens, w.ours, w.open, w.lost = w.monitor.Join() == nil, 0, false, false
}

// builtin are the chains of others that lead to ours.
var builtin = [...]string{"PREROUTING", "OUTPUT", "POSTROUTING", "INPUT", "FORWARD"}

// concernsUs reports whether a notification is of a table that we are in, as
// such, or of a chain of ours or its rules, or of one that leads to ours.
func concernsUs(msg nfnl.Message) bool {
	if msg.Kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(msg.Body) < 4 {
		return false
	}
	if f := msg.Body[0]; f != unix.NFPROTO_IPV4 && f != unix.NFPROTO_IPV6 {
		return false
	}
	var names [4]string
	for kind, v := range nfnl.Attributes(msg.Body[4:]) {
		if int(kind) < len(names) && len(v) > 0 {
			names[kind] = string(v[:len(v)-1])
		}
	}
	if table := names[unix.NFTA_TABLE_NAME]; table != nat.String() && table != filter.String() {
		return false
	}
	chain := ""
	switch msg.Kind & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return true
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = names[unix.NFTA_CHAIN_NAME]
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain = names[unix.NFTA_RULE_CHAIN]
	}
	return strings.HasPrefix(chain, prefix) || slices.Contains(builtin[:], chain)
}

func generationOf(s *nfnl.Socket) (g uint32) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN, 0, unix.NFPROTO_IPV4)
	m.Finish()
	_ = s.Ask(context.Background(), m, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_GEN_ID && len(v) == 4 {
				g = binary.BigEndian.Uint32(v)
			}
		}
	})
	return g
}
