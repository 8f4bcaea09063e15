package dns

import (
	"context"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/dnstap"
)

// maxRounds is how often one query may need other servers: for every name of the
// longest search path that Kubernetes allows.
const maxRounds = 40

// pending is a query that waits for what other servers say.
type pending struct {
	msg            []byte // a copy
	stream, six    bool
	client, server netip.AddrPort
	protocol       dnstap.Protocol
	received       time.Time
	rounds         int // of waiting for other servers
	// send gives the answer to the client, which is empty if there is none. It is
	// called once.
	send func(reply []byte)
}

// pend keeps the query of w, which has its own copy of the message.
func (w *worker) pend(msg []byte, received time.Time, send func([]byte)) *pending {
	return &pending{
		msg: append([]byte(nil), msg...), stream: w.stream, six: w.six,
		client: w.client, server: w.server, protocol: w.protocol, received: received, send: send,
	}
}

// await answers p, which w has parsed, when other servers have said what m lacks,
// and what may be lacking after that.
func (s *Server) await(work context.Context, w *worker, m miss, p *pending) {
	s.resolver.resolve(work, &w.query, m, func(it *cache.Item) {
		late := s.workers.Get().(*worker)
		defer s.workers.Put(late)
		room := late.datagram[:0]
		if p.stream {
			long := s.rooms.Get().(*[]byte)
			defer s.rooms.Put(long)
			room = *long
		}
		late.six, late.now, late.step = p.six, time.Now(), m.step
		late.client, late.server, late.protocol = p.client, p.server, p.protocol
		reply, next := s.answer(late, p.msg, room, p.stream, it)
		if p.rounds++; next.name != nil && p.rounds < maxRounds { // the search path goes on
			s.await(work, late, next, p)
			return
		}
		s.observe(late, p.msg, reply, p.received)
		late.took(p.received)
		p.send(reply)
	})
}
