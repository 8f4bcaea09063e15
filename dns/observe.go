package dns

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/wire"
)

// sampler logs one of so many queries. No loop waits for the log.
type sampler struct {
	every   uint64
	log     *slog.Logger
	count   atomic.Uint64
	lost    atomic.Uint64
	entries chan []slog.Attr
}

// samples is how many entries wait to be written.
const samples = 256

func newSampler(every int, log *slog.Logger) *sampler {
	return &sampler{every: uint64(every), log: log, entries: make(chan []slog.Attr, samples)}
}

// due reports whether this query is one to log.
func (s *sampler) due() bool { return s.count.Add(1)%s.every == 0 }

func (s *sampler) add(attrs []slog.Attr) {
	select {
	case s.entries <- attrs:
	default:
		s.lost.Add(1)
	}
}

func (s *sampler) run(ctx context.Context) {
	for {
		select {
		case attrs := <-s.entries:
			s.log.LogAttrs(ctx, slog.LevelInfo, "dns: query", attrs...)
		case <-ctx.Done():
			return
		}
	}
}

// observed reports whether anybody wants to know of queries.
func (s *Server) observed() bool { return s.tap != nil || s.sampler != nil }

var protocolNames = [...]string{dnstap.UDP: "udp", dnstap.TCP: "tcp", dnstap.DoT: "tls"}

// observe counts and tells who wants to know of a query that came then and has its
// answer now; reply is empty if it gets none.
func (s *Server) observe(w *worker, msg, reply []byte, received time.Time) {
	if len(reply) > 0 {
		w.count(len(msg), len(reply))
	}
	if !s.observed() {
		return
	}
	now := time.Now()
	if s.tap != nil {
		m := dnstap.Message{Client: w.client, Server: w.server, Protocol: w.protocol, Query: msg, Received: received}
		s.tap.Send(&m)
		if len(reply) > 0 {
			m.Response, m.Answered = reply, now
			s.tap.Send(&m)
		}
	}
	if s.sampler == nil || !s.sampler.due() || len(reply) < wire.HeaderLen {
		return
	}
	q := &w.query
	attrs := []slog.Attr{
		slog.String("name", wire.NameString(q.Name)), slog.String("type", dns.Type(q.Type).String()),
		slog.String("client", w.client.String()), slog.String("protocol", protocolNames[w.protocol]),
		slog.String("rcode", rcodeName(uint16(reply[3]&0xf))), slog.String("source", sources[w.source]),
		slog.Int("size", len(reply)), slog.Duration("took", now.Sub(received)),
	}
	if w.as != nil {
		attrs = append(attrs, slog.String("answeredAs", wire.NameString(w.as)))
	}
	s.sampler.add(attrs)
}

// tell begins to tell who wants to know, until the context ends.
func (s *Server) tell(ctx context.Context) *sync.WaitGroup {
	var telling sync.WaitGroup
	if s.sampler != nil {
		telling.Go(func() { s.sampler.run(ctx) })
	}
	if s.tap != nil {
		telling.Go(func() { s.tap.Run(ctx) })
	}
	return &telling
}
