package conformance

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// MissingError says which of the objects a server does not know. Without them what
// it answers tells nothing.
type MissingError struct {
	Services []string // in [Namespace]
	All      bool     // it knows none
	Rcode    int      // what was answered for the first
}

// Error returns one line.
func (e *MissingError) Error() string {
	which := strings.Join(e.Services, ", ")
	if e.All {
		which = "none is known"
	}
	return fmt.Sprintf("the Services to ask about are missing in namespace %s: %s (answered %s)", Namespace, which, dns.RcodeToString[e.Rcode])
}

// Missing asks whether a server knows the objects of [Manifests]. It returns a
// [MissingError] if it does not, or another error if it does not answer. Services
// that have no name by the rules are not asked for.
func Missing(ctx context.Context, t Target, p Params) error {
	t.complete()
	n := names{p, dns.Fqdn(strings.ToLower(p.Zone))}
	services := []string{"web", "unnamed", "pods", "tolerant", "shared", "portless", "many", "inside", "outside", "ring-1", "ring-2"}
	for _, l := range chain() {
		services = append(services, l.Name)
	}
	if p.IPv6.IsValid() {
		services = append(services, "dual", "pods6")
	}
	var missing MissingError
	for _, name := range services {
		// There is no such record: what exists answers without records, or with
		// an alias that is not followed.
		r, err := t.ask(ctx, "tcp", new(dns.Msg).SetQuestion(n.svc(name), dns.TypeCNAME))
		if err != nil {
			return t.silent(err)
		}
		if r.Rcode != dns.RcodeSuccess {
			if missing.Services == nil {
				missing.Rcode = r.Rcode
			}
			missing.Services = append(missing.Services, name)
		}
	}
	if missing.Services == nil {
		return nil
	}
	missing.All = len(missing.Services) == len(services)
	return &missing
}
