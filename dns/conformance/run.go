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

func (t *Target) complete() {
	if t.Dial == nil {
		t.Dial = (&net.Dialer{}).DialContext
	}
	if t.Timeout == 0 {
		t.Timeout = 3 * time.Second
	}
}

// Outcome is what became of a check over one transport.
type Outcome struct {
	Check
	Network string // "udp" or "tcp"
	Err     error  // what is wrong; nil: nothing
	// NotAsked is why the check does not tell anything; empty: it does.
	NotAsked string
}

// Run asks a server everything, over UDP and TCP. An error means that it does
// not answer at all.
func Run(ctx context.Context, t Target, p Params) ([]Outcome, error) {
	t.complete()
	var out []Outcome
	silent := true
	for _, c := range Checks(p) {
		for _, network := range []string{"udp", "tcp"} {
			o := Outcome{Check: c, Network: network, NotAsked: c.NotAsked}
			if c.NotAsked == "" {
				var answered bool
				answered, o.Err = t.check(ctx, network, c)
				silent = silent && !answered
			}
			if why, ok := errors.AsType[notAskedError](o.Err); ok {
				o.NotAsked, o.Err = string(why), nil
			}
			out = append(out, o)
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
		}
		if silent && len(out) >= 4 {
			return nil, t.silent(out[0].Err, out[1].Err)
		}
	}
	return out, nil
}

func (t Target) silent(errs ...error) error {
	return fmt.Errorf("conformance: %s does not answer: %w", t.Server, errors.Join(errs...))
}

// check asks and verifies. It reports whether there was an answer at all.
func (t Target) check(ctx context.Context, network string, c Check) (answered bool, err error) {
	q := new(dns.Msg).SetQuestion(c.Name, c.Type)
	if c.change != nil {
		c.change(q)
	}
	r, err := t.ask(ctx, network, q)
	if err != nil {
		return false, err
	}
	if c.then != nil {
		if q, err = c.then(r); err != nil {
			return true, err
		}
		if r, err = t.ask(ctx, network, q); err != nil {
			return true, fmt.Errorf("%s %s: %w", q.Question[0].Name, dns.TypeToString[q.Question[0].Qtype], err)
		}
	}
	return true, c.verify(r, network == "tcp")
}

func (t Target) ask(ctx context.Context, network string, q *dns.Msg) (*dns.Msg, error) {
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
		result, what := "ok", udp.What
		switch {
		case udp.Err != nil || tcp.Err != nil:
			failed++
			result = "FAIL"
		case udp.NotAsked != "":
			result, what = "not asked", udp.What+": "+udp.NotAsked
		case tcp.NotAsked != "":
			what += "; over TCP not asked: " + tcp.NotAsked
		}
		query := ""
		if udp.Name != "" {
			query = udp.Name + " " + dns.TypeToString[udp.Type]
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", udp.Rule, result, query, what, udp.Source)
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
	return failed, tw.Flush()
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
