package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// fallbackLife is how long the fallback of a ClusterIP outlives the last process.
const fallbackLife = 5 * time.Minute

// table is the kernel's tables of both families, as one process sees them.
type table struct {
	sock *nfnl.Socket
	seat int
	// generation is the kernel's number of the rule set when our tables were
	// last known to be ours, and sum what they were then.
	generation uint32
	sum        uint64
}

func openTable() (*table, error) {
	s, err := nfnl.Dial(-1)
	if err != nil {
		return nil, unsupported(err)
	}
	return &table{sock: s}, nil
}

func (t *table) close() { t.sock.Close() }

// both are the families that there can be tables of.
var both = []proxy.Family{proxy.IPv4, proxy.IPv6}

// install makes the tables hold the plan with our seat as the current one, in one
// transaction. fresh says that connections of a process that had the seat before
// are to be forgotten.
func (t *table) install(ctx context.Context, plan Plan, fresh bool) error {
	if err := t.wake(ctx); err != nil {
		return err
	}
	m := &nfnl.Messages{}
	m.BeginBatch()
	for i := range plan.Families {
		if err := t.define(ctx, m, &plan.Families[i], fresh); err != nil {
			return err
		}
	}
	left, err := t.left(ctx, plan)
	if err != nil {
		return err
	}
	for _, f := range left {
		deleteTable(m, f)
	}
	if err := t.commit(ctx, m); err != nil {
		return err
	}
	sum, err := t.look(ctx, plan)
	t.sum = sum
	return err
}

// left returns the families that have a table but no plan, and that no other process
// of another configuration intercepts.
func (t *table) left(ctx context.Context, plan Plan) ([]proxy.Family, error) {
	var out []proxy.Family
	for _, f := range both {
		if slices.ContainsFunc(plan.Families, func(p FamilyPlan) bool { return p.Family == f }) {
			continue
		}
		there, err := t.exists(ctx, f)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		seat, err := t.current(ctx, f)
		if err != nil {
			return nil, err
		}
		if seat < 0 || seat == t.seat || !taken(f, seat) {
			out = append(out, f)
		}
	}
	return out, nil
}

// commit sends a transaction and notes the kernel's number of it.
func (t *table) commit(ctx context.Context, m *nfnl.Messages) error {
	if err := explain(m, t.sock.Commit(m)); err != nil {
		return unsupported(err)
	}
	var err error
	t.generation, err = t.currentGeneration(ctx)
	return err
}

// define appends the messages that make one family's table. What is there already
// stays, with new rules.
func (t *table) define(ctx context.Context, m *nfnl.Messages, p *FamilyPlan, fresh bool) error {
	found, err := t.sets(ctx, p.Family)
	if err != nil {
		return err
	}
	var others, gone []int
	for s := range seats {
		switch {
		case s == t.seat || !slices.Contains(found, setConnections(s)):
		case taken(p.Family, s):
			others = append(others, s)
		default:
			gone = append(gone, s)
		}
	}
	clients, err := t.clientsOf(ctx, p.Family, others)
	if err != nil {
		return err
	}
	addTable(m, p.Family)
	for _, s := range slices.Concat(commonSets, seatSets(t.seat)) {
		s.create(m, p.Family)
	}
	chains := rules{p.Family}.chains(p, t.seat, others)
	for _, c := range chains {
		addChain(m, p.Family, c.name)
	}
	for _, c := range chains {
		if err := c.put(m, p.Family); err != nil {
			return err
		}
	}
	for _, s := range gone {
		deleteChain(m, p.Family, chainConnection(s))
		deleteSet(m, p.Family, setConnections(s))
		deleteSet(m, p.Family, setServers(s))
	}
	if fresh {
		flushSet(m, p.Family, setConnections(t.seat))
	}
	var servers []element
	for slot, a := range p.Captured {
		inside := server(p.Family, t.seat, slot)
		servers = append(servers, element{key: a, data: inside})
		clients = append(clients, element{key: inside, data: a})
	}
	fill(m, p.Family, setServers(t.seat), servers)
	fill(m, p.Family, setClients, clients)
	fill(m, p.Family, setProber, []element{{key: prober(p.Family, t.seat)}})
	putFallback(m, p)
	return nil
}

func putFallback(m *nfnl.Messages, p *FamilyPlan) {
	var fallback []element
	for _, a := range p.Fallback {
		e := element{key: a.Addr}
		if a.Expires {
			e.timeout = fallbackLife
		}
		fallback = append(fallback, e)
	}
	fill(m, p.Family, setFallback, fallback)
}

// renewFallback starts the life of the fallback anew, if it ends at all.
func (t *table) renewFallback(ctx context.Context, plan Plan) error {
	m := &nfnl.Messages{}
	m.BeginBatch()
	n := m.Count()
	for i := range plan.Families {
		if p := &plan.Families[i]; slices.ContainsFunc(p.Fallback, func(a Fallback) bool { return a.Expires }) {
			putFallback(m, p)
		}
	}
	if m.Count() == n {
		return nil
	}
	return t.commit(ctx, m)
}

// withdraw ends interception by this seat at once. Connections go on.
func (t *table) withdraw(ctx context.Context, plan Plan) error {
	m := &nfnl.Messages{}
	m.BeginBatch()
	for _, p := range plan.Families {
		flushSet(m, p.Family, setProber)
		flushSet(m, p.Family, setAlive)
	}
	return t.commit(ctx, m)
}

// current returns the seat that the table of a family sends queries to; none: -1.
func (t *table) current(ctx context.Context, f proxy.Family) (int, error) {
	seat := -1
	err := t.elements(ctx, f, setProber, func(e element) {
		if s, ok := seatOf(e.key); ok {
			seat = s
		}
	})
	return seat, err
}

// alive returns which addresses of a family are intercepted at the moment.
func (t *table) alive(ctx context.Context, f proxy.Family) ([]netip.Addr, error) {
	var out []netip.Addr
	err := t.elements(ctx, f, setAlive, func(e element) { out = append(out, e.key) })
	slices.SortFunc(out, netip.Addr.Compare)
	return out, err
}

// clientsOf returns the part of the map of clients that belongs to some seats.
func (t *table) clientsOf(ctx context.Context, f proxy.Family, seats []int) ([]element, error) {
	if len(seats) == 0 {
		return nil, nil
	}
	var out []element
	err := t.elements(ctx, f, setClients, func(e element) {
		if s, ok := seatOf(e.key); ok && slices.Contains(seats, s) {
			out = append(out, e)
		}
	})
	return out, err
}

// changed reports whether somebody has changed our tables since.
func (t *table) changed(ctx context.Context, plan Plan) (bool, error) {
	generation, err := t.currentGeneration(ctx)
	if err != nil || generation == t.generation {
		return false, err
	}
	sum, err := t.look(ctx, plan)
	if err != nil {
		return false, err
	}
	t.generation = generation
	return sum != t.sum, nil
}

// look returns a hash of all that is not changed by packets.
func (t *table) look(ctx context.Context, plan Plan) (uint64, error) {
	for attempt := 0; ; attempt++ {
		sum, err := t.lookOnce(ctx, plan)
		if !errors.Is(err, nfnl.ErrInterrupted) || attempt == 5 {
			return sum, err
		}
	}
}

func (t *table) lookOnce(ctx context.Context, plan Plan) (uint64, error) {
	h := fnv.New64a()
	for i := range plan.Families {
		f := plan.Families[i].Family
		sets, err := t.sets(ctx, f)
		if err != nil {
			return 0, err
		}
		// Those of other seats come and go, and what concerns us of them is
		// in the rules.
		for _, name := range sets {
			_, _ = fmt.Fprintf(h, "set %v %s\n", f, name)
		}
		if err := t.hashRules(ctx, f, h); err != nil {
			return 0, err
		}
		flags, _, err := t.flags(ctx, f)
		if err != nil {
			return 0, err
		}
		_, _ = fmt.Fprintf(h, "flags %d\n", flags)
	}
	for i := range plan.Families {
		f := plan.Families[i].Family
		for _, name := range []string{setServers(t.seat), setClients, setProber, setFallback} {
			var lines []string
			err := t.elements(ctx, f, name, func(e element) { lines = append(lines, fmt.Sprintln(name, e.key, e.data)) })
			if err != nil {
				return 0, err
			}
			slices.Sort(lines)
			for _, l := range lines {
				_, _ = io.WriteString(h, l)
			}
		}
	}
	return h.Sum64(), nil
}

// hashRules writes the chains and their rules.
func (t *table) hashRules(ctx context.Context, f proxy.Family, w io.Writer) error {
	for _, kind := range []int{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE} {
		m := &nfnl.Messages{}
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, kind, unix.NLM_F_DUMP, nfFamily(f))
		if kind == unix.NFT_MSG_GETRULE {
			m.String(unix.NFTA_RULE_TABLE, tableName)
		}
		m.Finish()
		err := t.sock.Ask(ctx, m, func(msg nfnl.Message) {
			var ours bool
			for k, v := range nfnl.Attributes(msg.Body[4:]) {
				switch {
				case k == unix.NFTA_RULE_TABLE: // and of a chain
					ours = string(v) == tableName+"\x00"
				case !ours:
				case kind == unix.NFT_MSG_GETCHAIN && (k == unix.NFTA_CHAIN_NAME || k == unix.NFTA_CHAIN_HOOK || k == unix.NFTA_CHAIN_TYPE || k == unix.NFTA_CHAIN_POLICY),
					kind == unix.NFT_MSG_GETRULE && (k == unix.NFTA_RULE_CHAIN || k == unix.NFTA_RULE_EXPRESSIONS):
					_, _ = w.Write(v)
				}
			}
		})
		if err != nil && !missing(err) {
			return err
		}
	}
	return nil
}

// sets returns the names of a family's sets, sorted.
func (t *table) sets(ctx context.Context, f proxy.Family) ([]string, error) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, nfFamily(f))
	m.String(unix.NFTA_SET_TABLE, tableName)
	m.Finish()
	var out []string
	err := t.sock.Ask(ctx, m, func(msg nfnl.Message) {
		for k, v := range nfnl.Attributes(msg.Body[4:]) {
			if k == unix.NFTA_SET_NAME && len(v) > 1 {
				out = append(out, string(v[:len(v)-1]))
			}
		}
	})
	if missing(err) {
		return nil, nil
	}
	slices.Sort(out)
	return out, err
}

// elements calls each for the elements of a set; one that is not there has none.
func (t *table) elements(ctx context.Context, f proxy.Family, name string, each func(element)) error {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, nfFamily(f))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, name)
	m.Finish()
	err := t.sock.Ask(ctx, m, func(msg nfnl.Message) { parseElements(msg.Body, each) })
	if missing(err) {
		return nil
	}
	return err
}

func (t *table) exists(ctx context.Context, f proxy.Family) (bool, error) {
	_, there, err := t.flags(ctx, f)
	return there, err
}

// flags returns those of a family's table, and whether there is one.
func (t *table) flags(ctx context.Context, f proxy.Family) (flags uint32, there bool, err error) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETTABLE, 0, nfFamily(f))
	m.String(unix.NFTA_TABLE_NAME, tableName)
	m.Finish()
	err = t.sock.Ask(ctx, m, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_TABLE_FLAGS && len(v) == 4 {
				flags = binary.BigEndian.Uint32(v)
			}
		}
	})
	if missing(err) {
		return 0, false, nil
	}
	return flags, err == nil, err
}

// wake puts tables in force again that somebody has made dormant, which detaches all
// their chains. It is a transaction of its own: the kernel takes no new base chain in
// one that wakes a table.
func (t *table) wake(ctx context.Context) error {
	m, asleep := &nfnl.Messages{}, false
	m.BeginBatch()
	for _, f := range both {
		flags, _, err := t.flags(ctx, f)
		if err != nil {
			return err
		}
		if flags&unix.NFT_TABLE_F_DORMANT != 0 {
			asleep = true
			m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWTABLE, 0, nfFamily(f))
			m.String(unix.NFTA_TABLE_NAME, tableName)
			m.Uint32(unix.NFTA_TABLE_FLAGS, flags&^unix.NFT_TABLE_F_DORMANT)
			m.Finish()
		}
	}
	if !asleep {
		return nil
	}
	return t.commit(ctx, m)
}

func (t *table) currentGeneration(ctx context.Context) (uint32, error) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC)
	m.Finish()
	var g uint32
	err := t.sock.Ask(ctx, m, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_GEN_ID && len(v) == 4 {
				g = binary.BigEndian.Uint32(v)
			}
		}
	})
	return g, err
}

// remove deletes the tables of both families.
func (t *table) remove() error {
	for _, f := range both {
		m := &nfnl.Messages{}
		m.BeginBatch()
		deleteTable(m, f)
		if err := t.sock.Commit(m); err != nil && !missing(err) {
			return fmt.Errorf("intercept: remove table %s of %s: %w", tableName, f, unsupported(err))
		}
	}
	return nil
}

// addTable appends the message that makes the table, or finds it there.
func addTable(m *nfnl.Messages, f proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, nfFamily(f))
	m.String(unix.NFTA_TABLE_NAME, tableName)
	m.Finish()
}

func deleteTable(m *nfnl.Messages, f proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELTABLE, 0, nfFamily(f))
	m.String(unix.NFTA_TABLE_NAME, tableName)
	m.Finish()
}

// missing reports whether an object, or its whole family, is not there.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}
