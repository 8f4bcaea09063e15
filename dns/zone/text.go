package zone

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// WriteTo writes the zone as a master file (RFC 1035 §5), ordered by name from
// the top. Names without records are comments. It is for people and tests, and
// costs as much as the zone is big.
func (z *Zone) WriteTo(w io.Writer) (int64, error) {
	var entries []*entry
	for e := range z.tree.all() {
		entries = append(append(entries, e), e.dashed()...)
	}
	var last [16]byte
	for p := range z.pointers.All() {
		addr := netip.AddrFrom16(p.addr).Unmap()
		if name := reverseName(addr); p.addr != last && z.tree.get(name) == nil {
			entries = append(entries, newEntry(name, nil, 0))
		}
		last = p.addr
	}
	slices.SortFunc(entries, func(a, b *entry) int { return compareNames(a.name(), b.name()) })
	out := &counter{w: bufio.NewWriter(w)}
	for _, a := range z.apexes {
		if !a.reverse {
			if err := writeRecords(out, a.name, a.soa); err != nil {
				return out.n, err
			}
		}
	}
	for _, e := range entries {
		pointers, n := z.endpointPointers(e, e.name())
		if _, services := e.get(wire.TypePTR); services > 0 {
			pointers = nil
		}
		if !e.hasSets() && n == 0 {
			if _, err := fmt.Fprintf(out, "; %s\n", wire.NameString(e.name())); err != nil {
				return out.n, err
			}
		}
		for typ, rrs := range e.types() {
			if typ >= typeEndpointPTR && typ <= typeNearAAAA {
				continue
			}
			if err := writeRecords(out, e.name(), rrs); err != nil {
				return out.n, err
			}
		}
		if err := writeRecords(out, e.name(), pointers); err != nil {
			return out.n, err
		}
	}
	return out.n, out.w.Flush()
}

// String returns the zone as a master file.
func (z *Zone) String() string {
	var b strings.Builder
	if _, err := z.WriteTo(&b); err != nil {
		fmt.Fprintf(&b, "; %v\n", err)
	}
	return b.String()
}

type counter struct {
	w *bufio.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func writeRecords(w io.Writer, owner, rrs []byte) error {
	for len(rrs) > 0 {
		n := wire.PackedLen(rrs)
		rr, _, err := dns.UnpackRR(append(slices.Clone(owner), rrs[wire.Pointer:n]...), 0)
		if err != nil {
			return fmt.Errorf("record of %s: %w", wire.NameString(owner), err)
		}
		if _, err := fmt.Fprintln(w, rr); err != nil {
			return err
		}
		rrs = rrs[n:]
	}
	return nil
}

// compareNames orders names as RFC 4034 §6.1 does: by labels, from the root.
func compareNames(a, b []byte) int {
	return slices.CompareFunc(labelsOf(a), labelsOf(b), strings.Compare)
}

func labelsOf(name []byte) []string {
	var ls []string
	for ; len(name) > 1; name = wire.Parent(name) {
		ls = append(ls, string(name[1:1+int(name[0])]))
	}
	slices.Reverse(ls)
	return ls
}

// Origin returns the object of the model that decides on a name, in wire form and
// lower case: a Service, a Namespace, or for names of Pods a Pod. It reports
// false for names that come from the zone itself or do not exist.
func (z *Zone) Origin(name []byte) (model.Key, bool) {
	for _, a := range z.apexes {
		if !wire.InZone(name, a.name) || len(name) == len(a.name) {
			continue
		}
		if a.reverse {
			answer := z.Lookup(name, wire.TypePTR)
			if answer.Status != Success {
				return model.Key{}, false
			}
			return z.Origin(answer.Records[wire.Pointer+10 : wire.PackedLen(answer.Records)])
		}
		ls := labelsOf(name)[len(labelsOf(a.name)):]
		switch {
		case len(ls) >= 3 && ls[0] == "svc":
			key := model.Key{Kind: model.KindService, Namespace: ls[1], Name: ls[2]}
			return key, z.model.Has(key)
		case len(ls) == 3 && ls[0] == "pod":
			if addr, ok := undash([]byte(ls[2])); ok && z.tree.get(wire.Parent(name)) != nil {
				if pod, ok := podOf(z.model, ls[1], addr); ok {
					return model.Pods.Key(pod), true
				}
			}
		case len(ls) == 2:
			key := model.Key{Kind: model.KindNamespace, Name: ls[1]}
			return key, z.model.Has(key)
		}
	}
	return model.Key{}, false
}
