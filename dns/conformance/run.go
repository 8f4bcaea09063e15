package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/miekg/dns"
)

// Target is a server to ask.
type Target struct {
	Server netip.AddrPort
	// Dial opens connections; nil: [net.Dialer.DialContext].
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Timeout time.Duration // of each query; 0: 3 s
}

// Outcome is what became of a check over one transport.
type Outcome struct {
	Check
	Network string // "udp" or "tcp"
	Err     error  // what is wrong; nil: nothing
}

// Run asks a server everything, over UDP and TCP. An error means that it does
// not answer at all.
func Run(ctx context.Context, t Target, p Params) ([]Outcome, error) {
	if t.Dial == nil {
		t.Dial = (&net.Dialer{}).DialContext
	}
	if t.Timeout == 0 {
		t.Timeout = 3 * time.Second
	}
	var out []Outcome
	silent := true
	for _, c := range Checks(p) {
		for _, network := range []string{"udp", "tcp"} {
			r, err := t.ask(ctx, network, c)
			if err == nil {
				silent = false
				err = c.verify(r, network == "tcp")
			}
			out = append(out, Outcome{c, network, err})
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
		}
		if silent && len(out) >= 4 {
			return nil, fmt.Errorf("conformance: %s does not answer: %w", t.Server, errors.Join(out[0].Err, out[1].Err))
		}
	}
	return out, nil
}

func (t Target) ask(ctx context.Context, network string, c Check) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	conn, err := t.Dial(ctx, network, t.Server.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	q := new(dns.Msg).SetQuestion(c.Name, c.Type)
	if c.change != nil {
		c.change(q)
	}
	dc := &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize}
	if err := dc.WriteMsg(q); err != nil {
		return nil, err
	}
	r, err := dc.ReadMsg()
	if err != nil {
		return nil, err
	}
	if r.Id != q.Id || !r.Response {
		return nil, errors.New("the answer does not belong to the question")
	}
	return r, nil
}

// Print writes a table of outcomes, with one line for what is the same over both
// transports, and returns how many checks failed.
func Print(w io.Writer, outcomes []Outcome) (failed int, err error) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "RULE\tRESULT\tQUERY\tWHAT\tSOURCE")
	for i := 0; i+1 < len(outcomes); i += 2 {
		udp, tcp := outcomes[i], outcomes[i+1]
		result := "ok"
		if udp.Err != nil || tcp.Err != nil {
			failed++
			result = "FAIL"
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s %s\t%s\t%s\n", udp.Rule, result, udp.Name, dns.TypeToString[udp.Type], udp.What, udp.Source)
		switch {
		case udp.Err != nil && tcp.Err != nil && udp.Err.Error() == tcp.Err.Error():
			_, _ = fmt.Fprintf(tw, "\t\t%s\n", oneLine(udp.Err))
		default:
			for _, o := range []Outcome{udp, tcp} {
				if o.Err != nil {
					_, _ = fmt.Fprintf(tw, "\t\tover %s: %s\n", strings.ToUpper(o.Network), oneLine(o.Err))
				}
			}
		}
	}
	for _, u := range unasked {
		_, _ = fmt.Fprintf(tw, "%s\tnot asked\t\t%s\n", u.rule, u.why)
	}
	return failed, tw.Flush()
}

// unasked are the rules that no query can tell of.
var unasked = []struct{ rule, why string }{
	{"C6", "SERVFAIL until the Services are read: a running server has read them"},
	{"C14", "filters of namespaces and labels: depends on the server's configuration"},
	{"C17", "clusterset.local: needs a second cluster"},
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
