// Package wire is the small part of DNS' message format (RFC 1035 §4, RFC 6891)
// that a server needs on every query: reading the header, the one question and
// the OPT record, and writing answers from records that were packed before.
//
// Names are in wire form, labels with their lengths and the root's zero at the
// end. Where a name is a key it is in lower case, because names are compared
// without regard to case (RFC 1035 §2.3.3). Nothing here allocates unless its
// comment says so.
package wire

// Sizes in octets.
const (
	HeaderLen  = 12
	MaxName    = 255   // RFC 1035 §2.3.4
	MaxLabel   = 63    // RFC 1035 §2.3.4
	MaxMessage = 65535 // RFC 1035 §4.2.2: a message over TCP
	MinUDP     = 512   // RFC 1035 §4.2.1: without EDNS
	// MaxUDP is the largest answer over UDP, whatever a client says it can
	// take: what crosses any IPv6 path in one piece (DNS flag day 2020).
	MaxUDP = 1232
	optLen = 11 // an OPT record without options
)

// Flags of the header's second 16 bits.
const (
	FlagQR = 1 << 15
	FlagAA = 1 << 10
	FlagTC = 1 << 9
	FlagRD = 1 << 8
	FlagRA = 1 << 7
	FlagAD = 1 << 5
	FlagCD = 1 << 4

	opcodeMask = 0xf << 11
	rcodeMask  = 0xf
)

// Response codes (RFC 1035, RFC 2136, RFC 6891).
const (
	RcodeSuccess  = 0
	RcodeFormErr  = 1
	RcodeServFail = 2
	RcodeNXDomain = 3
	RcodeNotImp   = 4
	RcodeRefused  = 5
	RcodeNotAuth  = 9
	RcodeBadVers  = 16
)

// Types that the server treats by themselves.
const (
	TypeA     = 1
	TypeNS    = 2
	TypeCNAME = 5
	TypeSOA   = 6
	TypePTR   = 12
	TypeHINFO = 13
	TypeMX    = 15
	TypeTXT   = 16
	TypeAAAA  = 28
	TypeSRV   = 33
	TypeOPT   = 41
	TypeSVCB  = 64
	TypeHTTPS = 65
	TypeIXFR  = 251
	TypeAXFR  = 252
	TypeANY   = 255
)

// Older types that have names in their data.
const (
	typeMD    = 3
	typeMF    = 4
	typeMB    = 7
	typeMG    = 8
	typeMR    = 9
	typeMINFO = 14
	typeRP    = 17
	typeAFSDB = 18
	typeRT    = 21
	typeSIG   = 24
	typePX    = 26
	typeNXT   = 30
	typeNAPTR = 35
	typeKX    = 36
	typeDNAME = 39
	typeRRSIG = 46
)

// ClassIN is the Internet, the one class that is served.
const ClassIN = 1
