package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	networking "istio.io/api/networking/v1"
	istionetworking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// virtualService is a VirtualService read once: what of it is supported, in
// our terms, and without looking at anything else.
type virtualService struct {
	key        model.Key
	generation int64
	created    time.Time
	hosts      []string // lower case; those of Services as their full names
	http       []httpRule
	tcp        []tcpRule
	// ignored are fields that have no effect, while the rest is in force.
	ignored []string
}

// httpRule is one entry of http, with matches as alternatives.
type httpRule struct {
	name     string
	matches  []httpMatch
	dests    []destination
	redirect *route.Redirect
	respond  *route.Response
	request  route.HeaderEdits
	response route.HeaderEdits
	rewrite  *networking.HTTPRewrite
	timeout  time.Duration
}

// httpMatch is one alternative; port 0 matches on every port.
type httpMatch struct {
	name string
	port uint16
	m    route.Match
}

// tcpRule is one entry of tcp. No ports means all.
type tcpRule struct {
	ports []uint16
	dests []destination
}

// destination is where a share goes, as the user wrote it.
type destination struct {
	host     string
	port     uint16 // 0: the Service's only port, or the one that was asked
	subset   string
	weight   uint32
	request  route.HeaderEdits
	response route.HeaderEdits
}

// older orders objects that compete: the oldest wins, as Istio and the Gateway
// API have it, then the first by namespace and name.
func older(aTime, bTime time.Time, a, b model.Key) int {
	return cmp.Or(aTime.Compare(bTime), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// refusal is why nothing of an object can be put in force. It is a user's
// mistake, shown on the object.
type refusal struct {
	reason string // of the condition
	text   string
}

func unsupported(format string, a ...any) *refusal {
	return &refusal{"Unsupported", fmt.Sprintf(format, a...)}
}

func invalid(format string, a ...any) *refusal { return &refusal{"Invalid", fmt.Sprintf(format, a...)} }

// vsReader reads one VirtualService.
type vsReader struct {
	out    *virtualService
	domain string
}

// readVirtualService reads a VirtualService, or says why it cannot be in
// force. Fields whose loss would send requests elsewhere than the user asked
// refuse the whole object; others are named in ignored.
func readVirtualService(vs *istionetworking.VirtualService, domain string) (*virtualService, *refusal) {
	r := &vsReader{domain: domain, out: &virtualService{
		key:        model.VirtualServices.Key(vs),
		generation: vs.Generation,
		created:    vs.CreationTimestamp.Time,
	}}
	spec := &vs.Spec
	if !inMesh(spec.Gateways) {
		return nil, unsupported("gateways: only %q is supported here; write routes of gateways as HTTPRoutes", meshGateway)
	}
	for _, g := range spec.Gateways {
		if g != meshGateway {
			r.ignore("gateways: %q (only %q is supported)", g, meshGateway)
		}
	}
	for _, e := range spec.ExportTo {
		if e != "*" {
			return nil, unsupported("exportTo %q: routes hold in all namespaces", e)
		}
	}
	if len(spec.Hosts) == 0 {
		return nil, invalid("hosts: expected at least one")
	}
	for _, h := range spec.Hosts {
		host, bad := r.host(h)
		if bad != nil {
			return nil, bad
		}
		if !slices.Contains(r.out.hosts, host) {
			r.out.hosts = append(r.out.hosts, host)
		}
	}
	for i := range spec.Tls {
		r.ignore("tls[%d]", i)
	}
	for i, h := range spec.Http {
		rule, skip, bad := r.httpRule(i, h)
		if bad != nil {
			return nil, bad
		}
		if !skip {
			r.out.http = append(r.out.http, rule)
		}
	}
	for i, t := range spec.Tcp {
		rule, skip, bad := r.tcpRule(i, t)
		if bad != nil {
			return nil, bad
		}
		if !skip {
			r.out.tcp = append(r.out.tcp, rule)
		}
	}
	return r.out, nil
}

// meshGateway is the reserved name of all sidecars in gateways.
const meshGateway = "mesh"

func inMesh(gateways []string) bool {
	return len(gateways) == 0 || slices.Contains(gateways, meshGateway)
}

func (r *vsReader) ignore(format string, a ...any) {
	r.out.ignored = append(r.out.ignored, fmt.Sprintf(format, a...))
}

var hostPattern = regexp.MustCompile(`^(\*|(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*)$`)

// host returns a host in the form in which hosts are compared.
func (r *vsReader) host(h string) (string, *refusal) {
	host := strings.TrimSuffix(strings.ToLower(h), ".")
	if !hostPattern.MatchString(host) {
		return "", invalid("hosts: expected a host name, *.name or *, found %q", h)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", unsupported("hosts: %q is an address; name the Service", h)
	}
	if !strings.Contains(host, ".") && host != "*" {
		host += "." + r.out.key.Namespace + ".svc"
	}
	if strings.HasSuffix(host, ".svc") {
		host += "." + r.domain
	}
	return host, nil
}

// httpRule reads one entry. skip says that it is for gateways only.
func (r *vsReader) httpRule(i int, h *networking.HTTPRoute) (rule httpRule, skip bool, bad *refusal) {
	at := fmt.Sprintf("http[%d]", i)
	rule.name = cmp.Or(h.Name, fmt.Sprintf("http-%d", i))
	if h.Delegate != nil {
		return rule, false, unsupported("%s.delegate", at)
	}
	for field, set := range map[string]bool{
		"fault": h.Fault != nil, "retries": h.Retries != nil, "corsPolicy": h.CorsPolicy != nil,
		"mirror": h.Mirror != nil || len(h.Mirrors) > 0,
	} {
		if set {
			r.ignore("%s.%s", at, field)
		}
	}
	slices.Sort(r.out.ignored) // the map above has no order
	for j, m := range h.Match {
		if !inMesh(m.Gateways) {
			continue
		}
		match, bad := r.httpMatch(fmt.Sprintf("%s.match[%d]", at, j), m)
		if bad != nil {
			return rule, false, bad
		}
		match.name = cmp.Or(m.Name, fmt.Sprintf("match-%d", j))
		rule.matches = append(rule.matches, match)
	}
	if len(h.Match) > 0 && len(rule.matches) == 0 {
		return rule, true, nil
	}
	if len(h.Match) == 0 {
		rule.matches = []httpMatch{{}}
	}
	rule.timeout = h.Timeout.AsDuration()
	return rule, false, r.httpAction(at, h, &rule)
}

func (r *vsReader) httpAction(at string, h *networking.HTTPRoute, rule *httpRule) *refusal {
	var host string
	rule.request, host = r.edits(at+".headers.request", h.Headers.GetRequest())
	rule.response, _ = r.edits(at+".headers.response", h.Headers.GetResponse())
	rule.rewrite = h.Rewrite
	if host != "" {
		rule.rewrite = &networking.HTTPRewrite{Uri: h.Rewrite.GetUri(), Authority: cmp.Or(h.Rewrite.GetAuthority(), host)}
	}
	if h.Rewrite.GetUriRegexRewrite() != nil {
		return unsupported("%s.rewrite.uriRegexRewrite", at)
	}
	switch {
	case h.Redirect != nil:
		return r.redirect(at+".redirect", h.Redirect, rule)
	case h.DirectResponse != nil:
		return respond(at+".directResponse", h.DirectResponse, rule)
	case len(h.Route) == 0:
		return invalid("%s: expected one of route, redirect and directResponse", at)
	}
	for j, d := range h.Route {
		dst, bad := readDestination(fmt.Sprintf("%s.route[%d]", at, j), d.Destination, d.Weight)
		if bad != nil {
			return bad
		}
		var host string
		dst.request, host = r.edits(fmt.Sprintf("%s.route[%d].headers.request", at, j), d.Headers.GetRequest())
		dst.response, _ = r.edits(fmt.Sprintf("%s.route[%d].headers.response", at, j), d.Headers.GetResponse())
		if host != "" {
			r.ignore("%s.route[%d].headers.request.set.host", at, j)
		}
		rule.dests = append(rule.dests, dst)
	}
	return weigh(at+".route", &rule.dests)
}

func (r *vsReader) redirect(at string, in *networking.HTTPRedirect, rule *httpRule) *refusal {
	out := &route.Redirect{
		Scheme: in.Scheme, Host: in.Authority, Path: in.Uri, PathPrefix: in.PrefixRewrite,
		HasPrefix: in.PrefixRewrite != "", Port: uint16(in.GetPort()), Code: int(cmp.Or(in.RedirectCode, 301)),
	}
	if in.GetDerivePort() == networking.HTTPRedirect_FROM_REQUEST_PORT {
		r.ignore("%s.derivePort", at)
	}
	switch out.Code {
	case 301, 302, 303, 307, 308:
	default:
		return invalid("%s.redirectCode: expected 301, 302, 303, 307 or 308, found %d", at, out.Code)
	}
	if in.GetPort() > 65535 {
		return invalid("%s.port: expected at most 65535, found %d", at, in.GetPort())
	}
	rule.redirect = out
	return nil
}

func respond(at string, in *networking.HTTPDirectResponse, rule *httpRule) *refusal {
	if in.Status < 200 || in.Status > 599 {
		return invalid("%s.status: expected 200 to 599, found %d", at, in.Status)
	}
	body := in.GetBody().GetString_()
	if b := in.GetBody().GetBytes(); len(b) > 0 {
		body = string(b)
	}
	rule.respond = &route.Response{Code: int(in.Status), Body: body}
	return nil
}

func (r *vsReader) tcpRule(i int, t *networking.TCPRoute) (rule tcpRule, skip bool, bad *refusal) {
	at := fmt.Sprintf("tcp[%d]", i)
	any := len(t.Match) == 0
	for j, m := range t.Match {
		switch {
		case !inMesh(m.Gateways):
			continue
		case len(m.DestinationSubnets) > 0:
			return rule, false, unsupported("%s.match[%d].destinationSubnets", at, j)
		case len(m.SourceLabels) > 0:
			return rule, false, unsupported("%s.match[%d].sourceLabels", at, j)
		case m.SourceNamespace != "" || m.SourceSubnet != "":
			return rule, false, unsupported("%s.match[%d].sourceNamespace, sourceSubnet", at, j)
		case m.Port > 65535:
			return rule, false, invalid("%s.match[%d].port: expected at most 65535, found %d", at, j, m.Port)
		case m.Port == 0:
			any = true
		default:
			rule.ports = append(rule.ports, uint16(m.Port))
		}
	}
	if any {
		rule.ports = nil
	} else if len(rule.ports) == 0 {
		return rule, true, nil
	}
	for j, d := range t.Route {
		dst, bad := readDestination(fmt.Sprintf("%s.route[%d]", at, j), d.Destination, d.Weight)
		if bad != nil {
			return rule, false, bad
		}
		rule.dests = append(rule.dests, dst)
	}
	if len(t.Route) == 0 {
		return rule, false, invalid("%s.route: expected at least one destination", at)
	}
	return rule, false, weigh(at+".route", &rule.dests)
}

func (t *tcpRule) takes(port uint16) bool { return t.ports == nil || slices.Contains(t.ports, port) }

func readDestination(at string, d *networking.Destination, weight int32) (destination, *refusal) {
	port := d.GetPort().GetNumber()
	switch {
	case d.GetHost() == "":
		return destination{}, invalid("%s.destination.host: expected a host", at)
	case port > 65535:
		return destination{}, invalid("%s.destination.port: expected at most 65535, found %d", at, port)
	case weight < 0:
		return destination{}, invalid("%s.weight: expected 0 or more, found %d", at, weight)
	}
	return destination{host: d.Host, port: uint16(port), subset: d.Subset, weight: uint32(weight)}, nil
}

// weigh drops what has weight 0. A destination that stands alone gets all,
// whatever its weight says.
func weigh(at string, dests *[]destination) *refusal {
	if len(*dests) == 1 {
		(*dests)[0].weight = 1
		return nil
	}
	*dests = slices.DeleteFunc(*dests, func(d destination) bool { return d.weight == 0 })
	if len(*dests) == 0 {
		return invalid("%s: expected weights with a sum above 0", at)
	}
	return nil
}

// edits reads header operations. Envoy does not let the Host header be edited
// as a header, so a value set for it is returned apart, to be rewritten.
func (r *vsReader) edits(at string, in *networking.Headers_HeaderOperations) (out route.HeaderEdits, host string) {
	list := func(what string, m map[string]string) (hs []route.Header) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			switch n := strings.ToLower(name); {
			case what == "set" && (n == "host" || n == ":authority"):
				host = m[name]
			case n == "host" || strings.HasPrefix(n, ":") || n == "":
				r.ignore("%s.%s: %q cannot be edited", at, what, name)
			default:
				hs = append(hs, route.Header{Name: n, Value: m[name]})
			}
		}
		return hs
	}
	out.Set, out.Add = list("set", in.GetSet()), list("add", in.GetAdd())
	for _, name := range in.GetRemove() {
		if n := strings.ToLower(name); n == "host" || strings.HasPrefix(n, ":") || n == "" {
			r.ignore("%s.remove: %q cannot be edited", at, name)
		} else {
			out.Remove = append(out.Remove, n)
		}
	}
	return out, host
}
