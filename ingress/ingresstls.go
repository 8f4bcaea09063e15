package ingress

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// tlsWant is that an Ingress wants a server name served with a certificate.
type tlsWant struct {
	serverName string // anyHost: where no other matches
	secret     *route.Secret
	origin     origin
}

// tlsNames gives each server name of a class to the oldest Ingress that wants
// it. The names of one certificate make one chain.
type tlsNames struct {
	wants   map[model.Key][]tlsWant
	byName  map[string]map[model.Key]tlsWant
	winners map[string]tlsWant
	dirty   map[string]struct{} // names whose wants changed
}

func newTLSNames() tlsNames {
	return tlsNames{
		wants: map[model.Key][]tlsWant{}, byName: map[string]map[model.Key]tlsWant{},
		winners: map[string]tlsWant{}, dirty: map[string]struct{}{},
	}
}

// set replaces what an Ingress wants.
func (t *tlsNames) set(key model.Key, wants []tlsWant) {
	if slices.Equal(t.wants[key], wants) {
		return
	}
	for _, w := range t.wants[key] {
		t.dirty[w.serverName] = struct{}{}
		if delete(t.byName[w.serverName], key); len(t.byName[w.serverName]) == 0 {
			delete(t.byName, w.serverName)
		}
	}
	for _, w := range wants {
		t.dirty[w.serverName] = struct{}{}
		if t.byName[w.serverName] == nil {
			t.byName[w.serverName] = map[model.Key]tlsWant{}
		}
		if _, twice := t.byName[w.serverName][key]; !twice {
			t.byName[w.serverName][key] = w
		}
	}
	if t.wants[key] = wants; len(wants) == 0 {
		delete(t.wants, key)
	}
}

// settle decides who has the names that changed. moved are the names that are
// in another chain than before, or in none; touched says that the listener or
// its certificates changed at all.
func (t *tlsNames) settle() (moved []string, touched bool) {
	for name := range take(&t.dirty) {
		old, had := t.winners[name]
		var best tlsWant
		for _, w := range t.byName[name] {
			if best.secret == nil || w.origin.before(best.origin) {
				best = w
			}
		}
		if best.secret == nil {
			delete(t.winners, name)
		} else {
			t.winners[name] = best
		}
		touched = touched || old.secret != best.secret
		if !had || best.secret == nil || old.chain() != best.chain() {
			moved = append(moved, name)
		}
	}
	return moved, touched
}

// chain is the name of the chain that serves a name. A chain either has server
// names or is the default.
func (w tlsWant) chain() string {
	if w.serverName == anyHost {
		return w.secret.Name + "/default"
	}
	return w.secret.Name
}

// chains returns the chains, without their spaces, and their certificates.
func (t *tlsNames) chains() ([]route.TLSChain, []*route.Secret) {
	byChain := map[string]*route.TLSChain{}
	secrets := map[string]*route.Secret{}
	for name, w := range t.winners {
		c := byChain[w.chain()]
		if c == nil {
			c = &route.TLSChain{Name: w.chain(), Secrets: []string{w.secret.Name}}
			byChain[w.chain()] = c
			secrets[w.secret.Name] = w.secret
		}
		if name != anyHost {
			c.ServerNames = append(c.ServerNames, name)
		}
	}
	chains := make([]route.TLSChain, 0, len(byChain))
	for _, c := range byChain {
		slices.Sort(c.ServerNames)
		chains = append(chains, *c)
	}
	slices.SortFunc(chains, compareChains)
	return chains, slices.Collect(maps.Values(secrets))
}

// chainsOf returns the chains in which requests for a host can come: the one of
// the most specific server name that covers it and, for a wildcard, those of
// all names that it covers.
func (t *tlsNames) chainsOf(host string) []string {
	var chains []string
	for name := range wider(host) {
		if w, ok := t.winners[name]; ok {
			chains = append(chains, w.chain())
			break
		}
	}
	if _, wild := wildcard(host); wild || host == anyHost {
		for name, w := range t.winners {
			if name != host && covers(host, name) {
				chains = append(chains, w.chain())
			}
		}
	}
	return chains
}

// wider yields a hostname and the wildcards that cover it, the most specific
// first, [anyHost] last.
func wider(host string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if host == anyHost {
			yield(host)
			return
		}
		if !yield(host) {
			return
		}
		rest := strings.TrimPrefix(host, "*.")
		for {
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				break
			}
			rest = rest[i+1:]
			if !yield("*." + rest) {
				return
			}
		}
		yield(anyHost)
	}
}

// before tells which of two objects wins where only one can.
func (o origin) before(other origin) bool {
	return cmp.Or(cmp.Compare(o.created, other.created), strings.Compare(o.name, other.name)) < 0
}

// ingressTLS returns the certificates that an Ingress wants.
func (p *Planner) ingressTLS(n *routeNode, obj *networkingv1.Ingress, seen *references) []tlsWant {
	var wants []tlsWant
	from := origin{obj.CreationTimestamp.Unix(), obj.Namespace + "/" + obj.Name}
	for i := range obj.Spec.TLS {
		t := &obj.Spec.TLS[i]
		if t.SecretName == "" {
			n.note(gatewayv1.RouteReasonUnsupportedValue, "tls[%d]: no secretName", i)
			continue
		}
		name := model.Name{Namespace: obj.Namespace, Name: t.SecretName}
		seen.secrets = append(seen.secrets, name)
		cert, err := p.certificate(name)
		if err != nil {
			n.note(gatewayv1.RouteConditionReason(gatewayv1.ListenerReasonInvalidCertificateRef), "tls[%d]: %v", i, err)
		}
		if cert == nil {
			continue
		}
		hosts := t.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, h := range hosts {
			host, err := parseHostname(h)
			if err != nil {
				n.note(gatewayv1.RouteReasonUnsupportedValue, "tls[%d]: %v", i, err)
				continue
			}
			wants = append(wants, tlsWant{host, cert, from})
		}
	}
	return wants
}
