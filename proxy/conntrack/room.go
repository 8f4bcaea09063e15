package conntrack

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Room is how full the kernel's memory of connections is. When it is full, the
// kernel drops the first packet of every new connection, of Services and others.
type Room struct {
	// Entries are the connections that a network namespace remembers.
	Entries uint32
	// Limit is net.netfilter.nf_conntrack_max; 0: there is none, or the kernel
	// is older than 4.19 and does not tell.
	Limit uint32
	// Dropped counts packets that were dropped since the namespace was made
	// because there was no room, or that another connection's entry had to make
	// room for.
	Dropped uint64
}

// Messages and attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	getStatsCPU = 4
	getStats    = 5

	statsEntries    = 1
	statsMaxEntries = 2

	cpuDrop      = 10
	cpuEarlyDrop = 11
)

// Room asks the kernel.
func (c *Cleaner) Room(ctx context.Context) (r Room, err error) {
	s, err := nfnl.Dial(c.netns)
	if err != nil {
		return r, fmt.Errorf("conntrack: %w", err)
	}
	defer s.Close()
	ask := func(kind int, flags uint16, each func(kind uint16, v uint32)) error {
		m := &nfnl.Messages{}
		m.Begin(unix.NFNL_SUBSYS_CTNETLINK, kind, flags, unix.AF_UNSPEC)
		m.Finish()
		return s.Ask(ctx, m, func(msg nfnl.Message) {
			if len(msg.Body) < 4 {
				return
			}
			for kind, v := range nfnl.Attributes(msg.Body[4:]) {
				if len(v) == 4 {
					each(kind, binary.BigEndian.Uint32(v))
				}
			}
		})
	}
	err = ask(getStats, 0, func(kind uint16, v uint32) {
		switch kind {
		case statsEntries:
			r.Entries = v
		case statsMaxEntries:
			r.Limit = v
		}
	})
	if err == nil {
		err = ask(getStatsCPU, unix.NLM_F_DUMP, func(kind uint16, v uint32) {
			if kind == cpuDrop || kind == cpuEarlyDrop {
				r.Dropped += uint64(v)
			}
		})
	}
	if err != nil {
		return r, fmt.Errorf("conntrack: ask for statistics: %w", err)
	}
	return r, nil
}

// The share of the limit, in percent, from which there is too little room, and
// that below which there is enough again.
const (
	tight = 95
	ample = 85
)

// Watch looks after the room of a namespace, logs when there is too little and
// when there is enough again, and has metrics. It is a [prometheus.Collector].
type Watch struct {
	flows *Cleaner
	log   *slog.Logger
	last  atomic.Pointer[Room]
	short bool // somebody was told that there is too little
	asked bool // whether the kernel answered the last time
	descs [3]*prometheus.Desc
}

// NewWatch returns a watch over the namespace of a cleaner.
func NewWatch(flows *Cleaner, log *slog.Logger) *Watch {
	return &Watch{flows: flows, log: log, asked: true, descs: [3]*prometheus.Desc{
		prometheus.NewDesc("sluice_conntrack_entries", "Connections that the kernel remembers.", nil, nil),
		prometheus.NewDesc("sluice_conntrack_entries_limit", "How many connections the kernel can remember; new ones are dropped beyond.", nil, nil),
		prometheus.NewDesc("sluice_conntrack_dropped_total", "Packets and connections dropped because the kernel could remember no more.", nil, nil),
	}}
}

// Describe implements [prometheus.Collector].
func (w *Watch) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range w.descs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (w *Watch) Collect(ch chan<- prometheus.Metric) {
	r := w.last.Load()
	if r == nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(w.descs[0], prometheus.GaugeValue, float64(r.Entries))
	ch <- prometheus.MustNewConstMetric(w.descs[1], prometheus.GaugeValue, float64(r.Limit))
	ch <- prometheus.MustNewConstMetric(w.descs[2], prometheus.CounterValue, float64(r.Dropped))
}

// Run looks again and again until the context ends, and returns its error.
func (w *Watch) Run(ctx context.Context, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		r, err := w.flows.Room(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			w.see(r)
		case w.asked:
			w.log.Warn("cannot tell how many connections the kernel remembers", "error", err)
		}
		w.asked = err == nil
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// see tells of a change between enough room and too little.
func (w *Watch) see(r Room) {
	last := w.last.Swap(&r)
	var dropped uint64
	if last != nil && r.Dropped > last.Dropped {
		dropped = r.Dropped - last.Dropped
	}
	full := func(percent uint64) bool { return r.Limit > 0 && uint64(r.Entries)*100 >= percent*uint64(r.Limit) }
	switch {
	case !w.short && (full(tight) || dropped > 0):
		w.short = true
		w.log.Error("the kernel's memory of connections is full, and new connections are dropped, those to Services and others; raise it with --proxy-conntrack-max-per-core or --proxy-conntrack-min",
			"sysctl", "net.netfilter.nf_conntrack_max", "entries", r.Entries, "limit", r.Limit, "dropped", dropped)
	case w.short && !full(ample) && dropped == 0:
		w.short = false
		w.log.Info("the kernel's memory of connections has room again", "entries", r.Entries, "limit", r.Limit, "dropped", r.Dropped)
	}
}
