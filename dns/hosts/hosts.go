// Package hosts answers names from entries in the form of hosts(5), given inline or
// in a file, for addresses and for the names of addresses.
package hosts

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// DefaultTTL is the TTL of the records where nothing else is said, as in CoreDNS'
// hosts plugin.
const DefaultTTL = time.Hour

// Table is a set of entries. It never changes.
type Table struct {
	names   map[string]*entry // by name in wire form and lower case
	records int               // of all names
	wild    bool              // there are names that begin with *
}

// entry is the packed records of one name.
type entry struct {
	sets [3]set // A, AAAA, PTR
}

type set struct {
	records []byte
	count   int
	has     map[string]bool // the data of the records, while many are put in
}

// many is from how many records on a set is not looked through for an equal one: a
// list of names that are to be blocked gives them all one address.
const many = 16

// Options say what the records of a table are like.
type Options struct {
	TTL time.Duration // by default [DefaultTTL]; negative: 0
	// NoReverse leaves out the records that lead from addresses to names.
	NoReverse bool
}

// Result is what a table knows of a name.
type Result struct {
	Found   bool   // the table has the name
	Records []byte // packed, see [wire.Reply]; nil: none of that type
	Count   int
}

// LineError is what is wrong with a line.
type LineError struct {
	Line int // from 1 on
	Err  error
}

// Error names the line.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns what is wrong without the line.
func (e *LineError) Unwrap() error { return e.Err }

// New makes a table of lines: an address and its names each, and what follows a #
// is a comment. It returns as errors what it cannot read, each a [*LineError], and
// a table of the rest. An empty table is nil, which has no names.
func New(lines []string, o Options) (*Table, []error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	t := &Table{names: map[string]*entry{}}
	var errs []error
	for i, line := range lines {
		fail := func(err error) { errs = append(errs, &LineError{i + 1, err}) }
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		switch {
		case err != nil, addr.Zone() != "":
			fail(fmt.Errorf("expected an address, found %q", fields[0]))
			continue
		case len(fields) == 1:
			fail(fmt.Errorf("expected names after %s", fields[0]))
			continue
		}
		for _, text := range fields[1:] {
			if err := t.add(addr.Unmap(), text, o); err != nil {
				fail(err)
			}
		}
	}
	if len(t.names) == 0 {
		return nil, errs
	}
	for _, e := range t.names {
		for i := range e.sets {
			e.sets[i].has = nil
		}
	}
	return t, errs
}

func (t *Table) add(addr netip.Addr, text string, o Options) error {
	parsed, err := wire.ParseName(text)
	if err != nil {
		return err
	}
	if len(parsed) == 1 {
		return fmt.Errorf("%w %q: the root has no address", wire.ErrName, text)
	}
	ttl := uint32(max(0, o.TTL) / time.Second)
	name := wire.AppendLower(nil, parsed)
	i, typ := 0, uint16(wire.TypeA)
	if addr.Is6() {
		i, typ = 1, wire.TypeAAAA
	}
	t.put(name, i, typ, ttl, addr.AsSlice())
	if name[0] == 1 && name[1] == '*' {
		t.wild = true
	} else if !o.NoReverse {
		t.put(ReverseName(addr), 2, wire.TypePTR, ttl, name)
	}
	return nil
}

// put adds a record, unless there is one that is equal.
func (t *Table) put(name []byte, i int, typ uint16, ttl uint32, data []byte) {
	e := t.names[string(name)]
	if e == nil {
		e = &entry{}
		t.names[string(name)] = e
	}
	s := &e.sets[i]
	if s.seen(data) {
		return
	}
	s.records = wire.AppendPacked(s.records, typ, ttl, data)
	s.count++
	t.records++
}

// seen reports whether there is a record with the data, and notes that there is one
// from now on.
func (s *set) seen(data []byte) bool {
	if s.has != nil {
		found := s.has[string(data)]
		s.has[string(data)] = true
		return found
	}
	if s.count == many {
		s.has = map[string]bool{string(data): true}
	}
	found := false
	for rest := s.records; len(rest) > 0; rest = rest[wire.PackedLen(rest):] {
		record := string(rest[wire.Pointer+10 : wire.PackedLen(rest)])
		found = found || record == string(data)
		if s.has != nil {
			s.has[record] = true
		}
	}
	return found
}

// Len returns how many names there are, those of addresses included.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	return len(t.names)
}

// Records returns how many records the names have.
func (t *Table) Records() int {
	if t == nil {
		return 0
	}
	return t.records
}

// Lookup finds the records of a name, in wire form and lower case. It does not
// allocate.
func (t *Table) Lookup(name []byte, typ uint16) Result {
	if t == nil {
		return Result{}
	}
	e := t.names[string(name)]
	if e == nil && t.wild {
		e = t.wildcard(name)
	}
	if e == nil {
		return Result{}
	}
	i := -1
	switch typ {
	case wire.TypeA:
		i = 0
	case wire.TypeAAAA:
		i = 1
	case wire.TypePTR:
		i = 2
	}
	if i < 0 {
		return Result{Found: true}
	}
	return Result{Found: true, Records: e.sets[i].records, Count: e.sets[i].count}
}

// wildcard finds the closest *.parent of a name.
func (t *Table) wildcard(name []byte) *entry {
	var buf [wire.MaxName + 2]byte
	for parent := wire.Parent(name); len(parent) > 1; parent = wire.Parent(parent) {
		star := append(append(buf[:0], 1, '*'), parent...)
		if e := t.names[string(star)]; e != nil {
			return e
		}
	}
	return nil
}

// ReverseName returns the name under which an address' PTR records are (RFC 1035
// §3.5, RFC 3596 §2.5).
func ReverseName(addr netip.Addr) []byte {
	const hex = "0123456789abcdef"
	octets := addr.AsSlice()
	name := make([]byte, 0, 80)
	for _, octet := range slices.Backward(octets) {
		if addr.Is4() {
			name = wire.AppendLabel(name, fmt.Sprint(octet))
			continue
		}
		name = append(name, 1, hex[octet&0xf], 1, hex[octet>>4])
	}
	if addr.Is4() {
		return append(name, "\x07in-addr\x04arpa\x00"...)
	}
	return append(name, "\x03ip6\x04arpa\x00"...)
}
