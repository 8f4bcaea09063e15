package iptables

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// digester is the sense of the legacy variant: the sizes of the tables, and a
// hash of what the kernel gives to iptables-save of them
// (linux/netfilter_ipv4/ip_tables.h), without counters. To read that takes neither
// the lock of the programs nor a program, but it takes the longer the busier the
// machine is, for the kernel gives way at each entry. So no step waits for it.
type digester struct {
	raw  map[proxy.Family]int
	seed maphash.Seed
	cost share

	sizes [4]tableInfo
	// sums are the hashes of what was looked at last, and read those that were
	// read last. They are not valid after a step of ours.
	sums, read [4]uint64
	valid      bool
}

func newDigester(netns int) *digester {
	d := &digester{raw: map[proxy.Family]int{}, seed: maphash.MakeSeed()}
	_ = nfnl.InNamespace(netns, func() error {
		for _, f := range families {
			if fd, err := unix.Socket(layouts[f].domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err == nil {
				d.raw[f] = fd
			}
		}
		return nil
	})
	if len(d.raw) == 0 {
		return nil
	}
	return d
}

func (d *digester) close() {
	for f, fd := range d.raw {
		_ = unix.Close(fd)
		delete(d.raw, f)
	}
}

// digestShare is which part of the time hashing may take.
const digestShare = 5

func (d *digester) look(closely bool) bool {
	if sizes := d.measure(); sizes != d.sizes {
		d.sizes, d.read = sizes, [4]uint64{}
		return true
	}
	if !closely || !d.cost.due(digestShare) {
		return false
	}
	start := time.Now()
	d.each(func(i, fd int, f proxy.Family, t table) {
		_ = readBlob(fd, f, t, func(blob []byte) { d.read[i] = d.hash(f, blob) })
	})
	d.cost.done(time.Since(start))
	return d.valid && d.read != d.sums
}

// unsure tells that somebody may have put a rule in the place of another that is
// as long, next to a step of ours.
func (d *digester) unsure() bool { return !d.valid }

func (d *digester) rest(commits int64) bool {
	before := d.sizes
	d.sizes = d.measure()
	if commits > 0 {
		d.read, d.valid = [4]uint64{}, false
		return false
	}
	d.sums, d.valid = d.read, d.read != [4]uint64{}
	return d.sizes != before
}

// each calls do for every table that there can be.
func (d *digester) each(do func(i, fd int, f proxy.Family, t table)) {
	for i, f := range families {
		for j, t := range [...]table{nat, filter} {
			if fd, ok := d.raw[f]; ok {
				do(2*i+j, fd, f, t)
			}
		}
	}
}

// measure returns how large the tables are, and where their chains begin.
func (d *digester) measure() (sizes [4]tableInfo) {
	d.each(func(i, fd int, f proxy.Family, t table) { sizes[i], _ = sizeOf(fd, f, t) })
	return sizes
}

// hash returns a hash of all entries but for what they have counted.
func (d *digester) hash(f proxy.Family, blob []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	l := layouts[f]
	for e := range l.entries(blob) {
		_, _ = h.Write(e[:l.comefrom])
		_, _ = h.Write(e[l.header:])
	}
	return h.Sum64()
}

// layout is how the kernel and its programs exchange the entries of a family:
// struct ipt_entry or ip6t_entry, then matches and a target.
type layout struct {
	domain, level int
	// Offsets in an entry: of where its target and the next entry are, of a
	// field of the kernel's own, of the counters, and of the first match.
	target, next, comefrom, counters, header int
}

var layouts = map[proxy.Family]*layout{
	proxy.IPv4: {domain: unix.AF_INET, level: unix.IPPROTO_IP, target: 88, next: 90, comefrom: 92, counters: 96, header: 112},
	proxy.IPv6: {domain: unix.AF_INET6, level: unix.IPPROTO_IPV6, target: 140, next: 142, comefrom: 144, counters: 152, header: 168},
}

// entries yields the entries of a table.
func (l *layout) entries(blob []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(blob) >= l.header {
			next := int(binary.NativeEndian.Uint16(blob[l.next:]))
			if next < l.header || next > len(blob) || !yield(blob[:next]) {
				return
			}
			blob = blob[next:]
		}
	}
}

// Options of getsockopt, of both families.
const (
	getInfo    = 64 // IPT_SO_GET_INFO
	getEntries = 65 // IPT_SO_GET_ENTRIES
)

// tableInfo is struct ipt_getinfo, which ip6t_getinfo is like.
type tableInfo struct {
	Name       [32]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	NumEntries uint32
	Size       uint32
}

// getEntriesHeader is struct ipt_get_entries, which ip6t_get_entries is like, up
// to the entries.
type getEntriesHeader struct {
	_    [0]uint64 // they are aligned so
	Name [32]byte
	Size uint32
}

// readBlob calls use with the entries of a table, which are the kernel's copy and
// valid until use returns.
func readBlob(fd int, f proxy.Family, t table, use func(blob []byte)) error {
	const attempts = 5 // between its two questions somebody may change the size
	for attempt := 1; ; attempt++ {
		err := tryBlob(fd, f, t, use)
		if !errors.Is(err, unix.EAGAIN) || attempt == attempts {
			return err
		}
	}
}

func sizeOf(fd int, f proxy.Family, t table) (info tableInfo, err error) {
	copy(info.Name[:], t.String())
	err = ask(fd, layouts[f].level, getInfo, unsafe.Pointer(&info), unsafe.Sizeof(info))
	return info, err
}

func tryBlob(fd int, f proxy.Family, t table, use func(blob []byte)) error {
	info, err := sizeOf(fd, f, t)
	if err != nil {
		return err
	}
	const header = unsafe.Sizeof(getEntriesHeader{})
	size := header + uintptr(info.Size)
	// It may have some ten MiB for a moment, which Go's heap would keep for longer.
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }()
	h := (*getEntriesHeader)(unsafe.Pointer(&b[0]))
	h.Name, h.Size = info.Name, info.Size
	if err := ask(fd, layouts[f].level, getEntries, unsafe.Pointer(&b[0]), size); err != nil {
		return err
	}
	use(slices.Clip(b[header:]))
	return nil
}

func ask(fd, level, option int, to unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(to), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
