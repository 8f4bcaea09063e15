package showcase

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Resolver asks for names from where it is, by dig if there is one.
type Resolver struct {
	From   Dialer
	Server netip.AddrPort
	// Search completes names that do not end with a dot.
	Search []string
	// Dig runs dig there and returns what it writes; nil: there is none.
	Dig func(ctx context.Context, args ...string) ([]byte, error)
}

// tool is the name of what asks.
func (r *Resolver) tool() string {
	if r.Dig == nil {
		return "ask"
	}
	return "dig"
}

// lookup asks for the records of a type, and returns their values, sorted, or
// the response code where that is not NOERROR. dig asks the server of the Pod's
// resolv.conf, and completes names by its search list.
func (r *Resolver) lookup(ctx context.Context, name, kind string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r.Dig == nil {
		return r.Exchange(ctx, name, kind)
	}
	out, err := r.Dig(ctx, "+search", "+noall", "+answer", "+comments", "+tries=1", name, kind)
	if err != nil {
		return nil, fmt.Errorf("dig %s %s: %w: %s", name, kind, err, strings.TrimSpace(string(out)))
	}
	return parseDig(string(out), kind)
}

// parseDig takes the values of a type, or the status, out of dig's answer.
func parseDig(out, kind string) ([]string, error) {
	var values []string
	status := ""
	for line := range strings.Lines(out) {
		if _, rest, found := strings.Cut(line, "status: "); found {
			status, _, _ = strings.Cut(rest, ",")
		}
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[0][0] != ';' && fields[3] == kind {
			values = append(values, strings.Join(fields[4:], " "))
		}
	}
	switch status {
	case "NOERROR":
		slices.Sort(values)
		return values, nil
	case "":
		return nil, fmt.Errorf("dig said %q", out)
	}
	return []string{status}, nil
}

// Exchange asks by itself, for a name and its completions until one is there.
func (r *Resolver) Exchange(ctx context.Context, name, kind string) (values []string, err error) {
	names := []string{name}
	if !strings.HasSuffix(name, ".") {
		names = nil
		for _, s := range r.Search {
			names = append(names, name+"."+s+".")
		}
	}
	for _, full := range names {
		values, err = r.exchange(ctx, full, kind)
		if err != nil || !slices.Equal(values, []string{"NXDOMAIN"}) {
			break
		}
	}
	return values, err
}

func (r *Resolver) exchange(ctx context.Context, name, kind string) ([]string, error) {
	question := new(dns.Msg)
	question.SetQuestion(name, dns.StringToType[kind])
	conn, err := r.From.DialContext(ctx, "udp", r.Server.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	answer, err := exchange(conn, question)
	if err != nil {
		return nil, err
	}
	if answer.Rcode != dns.RcodeSuccess {
		return []string{dns.RcodeToString[answer.Rcode]}, nil
	}
	var values []string
	for _, rr := range answer.Answer {
		if rr.Header().Rrtype == question.Question[0].Qtype {
			values = append(values, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
	}
	slices.Sort(values)
	return values, nil
}

func exchange(conn net.Conn, question *dns.Msg) (*dns.Msg, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := dns.Conn{Conn: conn}
	if err := c.WriteMsg(question); err != nil {
		return nil, err
	}
	for {
		answer, err := c.ReadMsg()
		if err != nil || answer.Id == question.Id {
			return answer, err
		}
	}
}

// alias asks again and again on one socket for what a name stands for.
func (r *Resolver) alias(name string) Ask {
	var mu sync.Mutex // guards conn, which one question at a time uses
	var conn net.Conn
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		var err error
		if conn == nil {
			if conn, err = r.From.DialContext(ctx, "udp", r.Server.String()); err != nil {
				return "", err
			}
		}
		question := new(dns.Msg)
		question.SetQuestion(name, dns.TypeCNAME)
		answer, err := exchange(conn, question)
		if err != nil {
			return "", err
		}
		for _, rr := range answer.Answer {
			if c, ok := rr.(*dns.CNAME); ok {
				return c.Target, nil
			}
		}
		return "", errors.New(dns.RcodeToString[answer.Rcode])
	}
}
