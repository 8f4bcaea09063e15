package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/lab"
)

// resolver asks for names from inside a Pod, with dig where the machine has it.
type resolver struct {
	pod    *lab.Pod
	server netip.AddrPort
	dig    string // its path, or empty
}

func newResolver(pod *lab.Pod) *resolver {
	r := &resolver{pod: pod, server: netip.AddrPortFrom(pod.Node().IPv4(), 53)}
	if path, err := exec.LookPath("dig"); err == nil {
		r.dig = path
	}
	return r
}

// tool is the name of what asks.
func (r *resolver) tool() string {
	if r.dig == "" {
		return "ask (dig is missing)"
	}
	return "dig"
}

// lookup asks for the records of a type, and returns their values, sorted, or
// the response code where that is not NOERROR. dig asks the server of the Pod's
// resolv.conf, and completes names by its search list.
func (r *resolver) lookup(ctx context.Context, name, kind string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r.dig == "" {
		return r.exchange(ctx, name, kind)
	}
	out, err := r.pod.Command(ctx, r.dig, "+search", "+noall", "+answer", "+comments", "+tries=1", name, kind).Output()
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

// exchange asks by ourselves, for the full name.
func (r *resolver) exchange(ctx context.Context, name, kind string) ([]string, error) {
	if !strings.HasSuffix(name, ".") {
		name += ".default.svc.cluster.local."
	}
	question := new(dns.Msg)
	question.SetQuestion(name, dns.StringToType[kind])
	conn, err := r.pod.DialContext(ctx, "udp", r.server.String())
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
func (r *resolver) alias(name string) asking {
	var mu sync.Mutex // guards conn, which one question at a time uses
	var conn net.Conn
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		var err error
		if conn == nil {
			if conn, err = r.pod.DialContext(ctx, "udp", r.server.String()); err != nil {
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
