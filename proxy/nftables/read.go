package nftables

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// The kernel lists a set in portions of a few hundred elements, and for each
// walks over all that came before, so the time of a list grows with the square of
// the set. Sets with an element for each backend of each Service are not listed,
// therefore, but asked for the elements that are expected there, many in one
// message. What else may be in them is looked for in the background, see sweep.

// question asks for elements of a set whose keys are numbered.
type question struct {
	place
	key     func(number uint32) string
	from, n uint32
	// expected is how many should be there. These are all asked for, even if
	// some are missing; after them, those up to the first that is missing.
	expected uint32
}

// maxKeys bounds the keys in one message.
const maxKeys = 512

// answersAt returns how many elements may be asked for at once: their answers
// wait in the socket's buffer, each with the kernel's overhead of nearly a
// kilobyte.
func (e *Engine) answersAt() int { return max(e.sock.Limit()>>10, 1) }

// ask adds to a listing what the kernel has of what is asked for.
func (e *Engine) ask(ctx context.Context, l *listing, questions []question) error {
	most := uint32(e.answersAt())
	for len(questions) > 0 {
		m := e.batch()
		asked := map[uint32]int{} // by sequence number
		var keys uint32
		n := 0
		for ; n < len(questions) && keys < most; n++ {
			q := &questions[n]
			// What does not fit is asked for when the beginning is there.
			q.n = min(q.n, maxKeys, most-keys)
			keys += q.n
			q.put(m, asked, n)
		}
		found := make([]uint32, n)
		err := e.sock.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
			i, ok := asked[msg.Sequence]
			if !ok {
				return
			}
			parseElements(questions[i].place, msg.Body, func(s seen) {
				found[i]++
				l.numbered[elementKey{s.place, s.key}] = s.data
			})
		})
		if err != nil && !missing(err) {
			return err
		}
		var more []question
		for i := range n {
			more = questions[i].rest(more, found[i])
		}
		questions = append(more, questions[n:]...)
	}
	return nil
}

// rest appends what is to be asked after so many answers. The kernel answers a
// message up to the first key that is missing.
func (q question) rest(more []question, found uint32) []question {
	if found == q.n {
		left := q.expected - min(q.n, q.expected)
		if q.n == q.expected {
			return more // what comes after was not asked for
		}
		return append(more, question{q.place, q.key, q.from + q.n, max(2*q.n, left), left})
	}
	for i := found + 1; i < q.expected; i++ {
		more = append(more, question{q.place, q.key, q.from + i, 1, 1})
	}
	return more
}

// put appends the question to a request.
func (q *question) put(m *batch, asked map[uint32]int, index int) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, nfFamily(q.family))
	asked[m.Sequence()] = index
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, m.table)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, specs[q.set].name)
	list := m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for i := range q.n {
		item := m.Nest(unix.NFTA_LIST_ELEM)
		putData(m, unix.NFTA_SET_ELEM_KEY, q.key(q.from+i))
		m.End(item)
	}
	m.End(list)
	m.Finish()
}

// frontendQuestions asks for the slots of a frontend: for as many as there should
// be and one more, and for those of what its old verdict says.
func (l *listing) frontendQuestions(s *portState, f *proxy.Frontend, cluster, local int) []question {
	if !l.tables[s.plan.Family] {
		return nil
	}
	verdict := l.elements[elementKey{entryPlace(s.plan.Family, f), string(entryKey(s.plan.Protocol, f))}]
	slot, choice := s.keys(f)
	slots, choices, _ := numberedSets(f)
	toCluster, toLocal := strings.Contains(verdict, "cluster-"), strings.Contains(verdict, "local-")
	sticky := strings.Contains(verdict, "-affinity-")
	var out []question
	add := func(set setID, key func(uint32) string, wanted, before bool) {
		if wanted && cluster > 0 || before && toCluster {
			out = append(out, question{place{s.plan.Family, set}, key, 0, uint32(cluster) + 1, uint32(cluster)})
		}
		if wanted && local > 0 || before && toLocal {
			out = append(out, question{place{s.plan.Family, set}, key, localSlots, uint32(local) + 1, uint32(local)})
		}
	}
	add(slots, slot, s.plan.Affinity == 0, !sticky)
	add(choices, choice, s.plan.Affinity != 0, sticky)
	return out
}

// backendQuestions asks for the backends with some numbers of a frontend with
// affinity.
func backendQuestions(s *portState, f *proxy.Frontend, ids []uint32) []question {
	_, _, backends := numberedSets(f)
	key, _ := s.keys(f)
	var out []question
	for _, id := range ids {
		out = append(out, question{place{s.plan.Family, backends}, key, id, 1, 1})
	}
	return out
}

// chosen returns the numbers of backends that a frontend's choices lead to.
func (l *listing) chosen(s *portState, f *proxy.Frontend) []uint32 {
	_, choices, _ := numberedSets(f)
	_, key := s.keys(f)
	var out []uint32
	for _, from := range [...]uint32{0, localSlots} {
		for n := from; ; n++ {
			data, ok := l.numbered[elementKey{place{s.plan.Family, choices}, key(n)}]
			if !ok {
				break
			}
			if len(data) == 4 {
				out = append(out, binary.NativeEndian.Uint32([]byte(data)))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// wanted is a Service that is to be compared with what the kernel has. Its state
// is known, or comes to be from the plan and what is found.
type wanted struct {
	plan  *proxy.Service
	state serviceState
}

// size returns about how many elements a Service has in numbered sets.
func (w *wanted) size() int {
	n := 0
	w.ports(func(s *portState, cluster, local int) { n += len(s.plan.Frontends) * (cluster + local + 1) })
	return n
}

// ports calls each for the ports, with the numbers of their slots.
func (w *wanted) ports(each func(s *portState, cluster, local int)) {
	if w.plan == nil {
		for i := range w.state {
			each(&w.state[i], len(w.state[i].cluster), len(w.state[i].local))
		}
		return
	}
	for _, p := range w.plan.Ports {
		cluster, local := 0, 0
		if uses(p, proxy.ToCluster) {
			cluster = slotCount(p.Cluster)
		}
		if uses(p, proxy.ToLocal) {
			local = slotCount(p.Local)
		}
		each(&portState{service: w.plan.Name, plan: p}, cluster, local)
	}
}

// readServices adds to a listing what the kernel has of some Services in
// numbered sets, as far as their state needs it.
func (e *Engine) readServices(ctx context.Context, l *listing, services []wanted) error {
	var first, second []question
	for i := range services {
		services[i].ports(func(s *portState, cluster, local int) {
			for j := range s.plan.Frontends {
				first = append(first, l.frontendQuestions(s, &s.plan.Frontends[j], cluster, local)...)
			}
		})
	}
	if err := e.ask(ctx, l, first); err != nil {
		return fmt.Errorf("nftables: read slots: %w", unsupported(err))
	}
	for i := range services {
		services[i].ports(func(s *portState, _, _ int) {
			for j := range s.plan.Frontends {
				f := &s.plan.Frontends[j]
				second = append(second, backendQuestions(s, f, l.chosen(s, f))...)
			}
		})
	}
	if err := e.ask(ctx, l, second); err != nil {
		return fmt.Errorf("nftables: read backends: %w", unsupported(err))
	}
	return nil
}

// readBackends adds to a listing the backends with affinity of some Services by
// their new state: what is there already must not be added with other data.
func (e *Engine) readBackends(ctx context.Context, l *listing, states []serviceState) error {
	var questions []question
	for _, state := range states {
		for i := range state {
			s := &state[i]
			if s.plan.Affinity == 0 || !l.tables[s.plan.Family] {
				continue
			}
			ids := s.numbers()
			for j := range s.plan.Frontends {
				f := &s.plan.Frontends[j]
				_, _, backends := numberedSets(f)
				key, _ := s.keys(f)
				for _, id := range ids {
					if _, known := l.numbered[elementKey{place{s.plan.Family, backends}, key(id)}]; !known {
						questions = append(questions, backendQuestions(s, f, []uint32{id})...)
					}
				}
			}
		}
	}
	if err := e.ask(ctx, l, questions); err != nil {
		return fmt.Errorf("nftables: read backends: %w", unsupported(err))
	}
	return nil
}

// readRest adds to a listing the numbered elements of frontends that are not
// wanted any more: of those whose verdicts are left in it.
func (e *Engine) readRest(ctx context.Context, l *listing) error {
	type gone struct {
		portState
		proxy.Frontend
	}
	var list []gone
	var questions []question
	for k, verdict := range l.elements {
		if k.set != setServices && k.set != setNodePorts {
			continue
		}
		f, ok := frontendKey(k.place, k.key)
		if !ok {
			continue
		}
		g := gone{portState{plan: &proxy.Port{Family: f.Family, Protocol: f.Protocol}}, proxy.Frontend{Addr: f.Addr, Port: f.Port}}
		if k.set == setNodePorts {
			g.Kind = proxy.NodePort
		}
		if strings.Contains(verdict, "-affinity-") {
			g.plan.Affinity = 1
		}
		list = append(list, g)
		questions = append(questions, l.frontendQuestions(&g.portState, &g.Frontend, 0, 0)...)
	}
	if err := e.ask(ctx, l, questions); err != nil {
		return fmt.Errorf("nftables: read slots: %w", unsupported(err))
	}
	questions = questions[:0]
	for i := range list {
		questions = append(questions, backendQuestions(&list[i].portState, &list[i].Frontend, l.chosen(&list[i].portState, &list[i].Frontend))...)
	}
	if err := e.ask(ctx, l, questions); err != nil {
		return fmt.Errorf("nftables: read backends: %w", unsupported(err))
	}
	return nil
}

// readGarbage adds to a listing what is left of known garbage.
func (e *Engine) readGarbage(ctx context.Context, l *listing, garbage map[elementKey]string) error {
	var questions []question
	for k := range garbage {
		questions = append(questions, question{k.place, func(uint32) string { return k.key }, 0, 1, 1})
	}
	if err := e.ask(ctx, l, questions); err != nil {
		return fmt.Errorf("nftables: read slots that are not used any more: %w", unsupported(err))
	}
	return nil
}
