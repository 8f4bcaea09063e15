package iptables

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// canary tells cheaply whether somebody may have changed rules: of the nft
// variant by the generation of the kernel's rules, which every transaction
// counts, and of the legacy one by the size of its tables.
type canary struct {
	variant Variant
	socket  *nfnl.Socket
	raw     map[proxy.Family]int
	last    state
	// commits counts our own transactions since begin.
	commits atomic.Int64
	odd     bool
}

// state is what a canary sees. The zero value is that of one that sees nothing.
type state struct {
	generation uint32
	tables     [4]tableInfo
}

// tableInfo is struct ipt_getinfo, which ip6t_getinfo is like.
type tableInfo struct {
	Name       [32]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	NumEntries uint32
	Size       uint32
}

func newCanary(v Variant, netns int) *canary {
	c := &canary{variant: v, raw: map[proxy.Family]int{}}
	if v == NFT {
		c.socket, _ = nfnl.Dial(netns)
		return c
	}
	_ = nfnl.InNamespace(netns, func() error {
		for f, domain := range map[proxy.Family]int{proxy.IPv4: unix.AF_INET, proxy.IPv6: unix.AF_INET6} {
			if fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err == nil {
				c.raw[f] = fd
			}
		}
		return nil
	})
	return c
}

func (c *canary) close() {
	if c.socket != nil {
		c.socket.Close()
		c.socket = nil
	}
	for f, fd := range c.raw {
		_ = unix.Close(fd)
		delete(c.raw, f)
	}
}

// look returns what there is to see.
func (c *canary) look() (s state) {
	if c.socket != nil {
		s.generation = c.generation()
	}
	i := 0
	for _, f := range families {
		for _, t := range [...]table{nat, filter} {
			if fd, ok := c.raw[f]; ok {
				s.tables[i] = info(fd, f, t)
			}
			i++
		}
	}
	return s
}

func (c *canary) generation() (g uint32) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN, 0, unix.NFPROTO_IPV4)
	m.Finish()
	_ = c.socket.Ask(context.Background(), m, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_GEN_ID && len(v) == 4 {
				g = binary.BigEndian.Uint32(v)
			}
		}
	})
	return g
}

// info asks for the size of a table of the legacy variant.
func info(fd int, f proxy.Family, t table) (i tableInfo) {
	copy(i.Name[:], t.String())
	level := unix.IPPROTO_IP
	if f == proxy.IPv6 {
		level = unix.IPPROTO_IPV6
	}
	const getInfo = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	size := uint32(unsafe.Sizeof(i))
	_, _, _ = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), getInfo,
		uintptr(unsafe.Pointer(&i)), uintptr(unsafe.Pointer(&size)), 0)
	return i
}

// changed reports whether there was something since the last rest. A canary that
// sees nothing says yes.
func (c *canary) changed() bool {
	now := c.look()
	return now == (state{}) || now != c.last
}

// begin notes that a step of ours begins.
func (c *canary) begin() {
	c.odd = c.changed()
	c.last = c.look()
	c.commits.Store(0)
}

// wrote counts the transactions of what iptables-restore was given.
func (c *canary) wrote(text []byte) { c.commits.Add(int64(bytes.Count(text, []byte("\nCOMMIT\n")))) }

// rest notes that a step of ours has ended, and reports whether somebody else's
// was seen since the one before.
func (c *canary) rest() (foreign bool) {
	before := c.last
	c.last = c.look()
	if c.variant == NFT {
		c.odd = c.odd || c.last.generation != before.generation+uint32(c.commits.Load())
	}
	return c.odd
}
