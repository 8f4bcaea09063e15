package hostile

import (
	"fmt"
	"strings"
	"testing"
)

// gateways are mistakes in Gateways and their certificates.
func gateways(t *testing.T) []input {
	x := func(listeners string) string {
		return object("Gateway", "x", `{gatewayClassName: sluice, listeners: [`+listeners+`]}`)
	}
	const https = `{name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: x}]}}`
	a, b := certificate(t, "a.example.com"), certificate(t, "b.example.com")
	opaque := "---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: b}\n"
	return []input{
		{
			name: "a missing certificate", bad: one(x(https)),
			says: []string{`Gateway default/x … listener tls … ResolvedRefs=False (InvalidCertificateRef) … the Secret default/x does not exist`},
		},
		{
			name: "a certificate that is garbage", bad: one(x(https) + secret("x", pair{"garbage\n", b.key})),
			says: []string{`Gateway default/x … listener tls … default/x: tls.crt holds no certificate in PEM form`},
		},
		{
			name: "a key of another certificate", bad: one(x(https) + secret("x", pair{a.cert, b.key})),
			says: []string{`Gateway default/x … listener tls … private key does not match public key`},
		},
		{
			name: "a Secret of another type", bad: one(x(https) + opaque),
			says: []string{`Gateway default/x … listener tls … "Opaque", not "kubernetes.io/tls"`},
		},
		{
			name: "a renewal that is garbage", bad: map[string]string{"base-secret.yaml": "---\napiVersion: v1\nkind: Secret\nmetadata: {name: other}\ndata: {tls.crt: '***'}\n"},
			says: []string{`Secret default/other … base-secret.yaml:5: … data[tls.crt]: must be in base64; stringData takes plain text`},
		},
		{
			name: "two listeners with one hostname", bad: one(x(`{name: a, port: 8081, protocol: HTTP, hostname: h.example.com}, {name: b, port: 8081, protocol: HTTP, hostname: h.example.com}`)),
			says: []string{
				`Gateway default/x … listener a … HostnameConflict … listener "b" also has port 8081 and hostname "h.example.com"`,
				`Gateway default/x … listener b … HostnameConflict … listener "a" also has port 8081`,
			},
		},
		{
			name: "two listeners with one port and two protocols",
			bad:  one(x(`{name: a, port: 8081, protocol: HTTP}, {name: b, port: 8081, protocol: HTTPS, tls: {certificateRefs: [{name: base}]}}`)),
			says: []string{`Gateway default/x … listener a … ProtocolConflict … listener "b" also has port 8081, with protocol HTTPS`},
		},
		{
			name: "a port that another Gateway has", bad: one(x(`{name: a, port: 80, protocol: HTTP}`)),
			says: []string{`Gateway default/x listener a … Accepted=False (PortUnavailable) port 80 belongs to the older Gateway default/base at the same address`},
		},
		{
			name: "an unknown protocol", bad: one(x(`{name: a, port: 8081, protocol: GOPHER}`)),
			says: []string{`Gateway default/x … listener a … UnsupportedProtocol … protocol "GOPHER" is not supported; HTTP and HTTPS are`},
		},
		{
			name: "a port out of range", bad: one(x(`{name: a, port: 70000, protocol: HTTP}`)),
			says: []string{`Gateway default/x … x.yaml:5: … spec.listeners[0].port: must be a number from 1 to 65535, found 70000`},
		},
		{
			name: "a class that is nobody's", bad: one(object("Gateway", "x", `{gatewayClassName: nobodys, listeners: [{name: a, port: 8081, protocol: HTTP}]}`)),
			says: nil, // another controller's, or of a class that comes later
		},
		{
			name: "a wildcard within a hostname", bad: one(x(`{name: a, port: 8081, protocol: HTTP, hostname: "*.*.x"}`)),
			says: []string{`Gateway default/x … x.yaml:5: … spec.listeners[0].hostname: must be a DNS name in lower case, or one with *. before it, found "*.*.x"`},
		},
	}
}

const ingressClass = "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: sluice}\nspec: {controller: sluice.io/ingress-controller}\n"

// routes are mistakes in HTTPRoutes and Ingresses.
func routes() []input {
	x := func(rest string) string {
		return object("HTTPRoute", "x", `{parentRefs: [{name: base}], hostnames: [x.example.com], `+rest+`}`)
	}
	const fine = `rules: [{backendRefs: [{name: base, port: 80}]}]`
	inForce := routesHost("x.example.com", "/")
	return []input{
		{
			name: "an Ingress on the port of a Gateway",
			bad:  one(object("Ingress", "x", `{ingressClassName: sluice, rules: [{host: i.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: base, port: {number: 80}}}}]}}]}`) + ingressClass),
			says: []string{`Ingress default/x … Programmed=False (PortUnavailable) port 80 belongs to the Gateway default/base at the same address`},
		},
		{
			name: "a route to a missing Service", good: one(x(fine)), bad: one(x(`rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: base, port: 80}]}, {matches: [{path: {value: /b}}], backendRefs: [{name: missing, port: 80}]}]`)),
			holds: routesHost("x.example.com", "/a"),
			says:  []string{`HTTPRoute default/x … ResolvedRefs=False (BackendNotFound) … default/missing`},
		},
		{
			name: "a route to a missing port", bad: one(x(`rules: [{backendRefs: [{name: base, port: 81}]}]`)),
			says: []string{`HTTPRoute default/x … ResolvedRefs=False … base … 81`},
		},
		{
			name: "a route to a missing Gateway", bad: one(object("HTTPRoute", "x", `{parentRefs: [{name: missing}], `+fine+`}`)),
			says: nil, // another controller's, or a Gateway that comes later
		},
		{
			name: "a route to a listener that is missing", bad: one(object("HTTPRoute", "x", `{parentRefs: [{name: base, sectionName: missing}], `+fine+`}`)),
			says: []string{`HTTPRoute default/x … in Gateway base listener missing … Accepted=False (NoMatchingParent)`},
		},
		{
			name: "an invalid regular expression", good: one(x(fine)),
			bad:   one(x(`rules: [{backendRefs: [{name: base, port: 80}]}, {matches: [{path: {type: RegularExpression, value: "/a(b"}}], backendRefs: [{name: base, port: 80}]}]`)),
			holds: inForce,
			says:  []string{"HTTPRoute default/x … /a(b"},
		},
		{
			name: "a regular expression that is too large for Envoy", good: one(x(fine)),
			bad:   one(x(`rules: [{backendRefs: [{name: base, port: 80}]}, {matches: [{path: {type: RegularExpression, value: '/\pL{1,1000}'}}], backendRefs: [{name: base, port: 80}]}]`)),
			holds: inForce,
			says:  []string{`HTTPRoute default/x … Programmed=False (Rejected) … the regular expression … is too large`},
		},
		{
			name: "a lookahead", bad: one(x(`rules: [{matches: [{path: {type: RegularExpression, value: "/(?=a)"}}], backendRefs: [{name: base, port: 80}]}]`)),
			says: []string{"HTTPRoute default/x … (?="},
		},
		{
			name: "two equal routes", bad: one(x(fine) + strings.Replace(x(fine), `name: "x"`, `name: "yy"`, 1)), holds: inForce,
			says: nil, // the older or first one has the requests (HTTPRouteRule.Matches)
		},
		{
			name: "an unknown filter", good: one(x(fine)), bad: one(x(`rules: [{filters: [{type: Teleport}], backendRefs: [{name: base, port: 80}]}]`)), holds: inForce,
			says: []string{`HTTPRoute default/x … x.yaml:5: … spec.rules[0].filters[0].type: must be a type of filter such as RequestHeaderModifier, found "Teleport"`},
		},
		{
			name: "a filter without its settings", good: one(x(fine)), bad: one(x(`rules: [{filters: [{type: RequestRedirect}], backendRefs: [{name: base, port: 80}]}]`)), holds: inForce,
			says: []string{`HTTPRoute default/x … spec.rules[0].filters[0].requestRedirect: is missing`},
		},
		{
			name: "a filter that is somebody else's", bad: one(x(`rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}], backendRefs: [{name: base, port: 80}]}]`)),
			says: []string{`HTTPRoute default/x … ExtensionRef`},
		},
		{
			name: "64 matches", holds: routesHost("x.example.com", "/p63"),
			bad: one(x(`rules: [{matches: [` + repeat(64, ", ", func(i int) string {
				return fmt.Sprintf("{path: {value: /p%d}}", i)
			}) + `], backendRefs: [{name: base, port: 80}]}]`)),
		},
		{
			name: "65 matches", good: one(x(fine)), holds: inForce,
			bad: one(x(`rules: [{matches: [` + repeat(65, ", ", func(i int) string {
				return fmt.Sprintf("{path: {value: /p%d}}", i)
			}) + `], backendRefs: [{name: base, port: 80}]}]`)),
			says: []string{`HTTPRoute default/x … spec.rules[0].matches: must be a list of at most 64 … found 65`},
		},
		{
			name: "a hostname with two wildcards", good: one(x(fine)), holds: inForce,
			bad:  one(strings.Replace(x(fine), "[x.example.com]", `["*.*.x"]`, 1)),
			says: []string{`HTTPRoute default/x … spec.hostnames[0]: must be a DNS name in lower case, or one with *. before it, found "*.*.x"`},
		},
		{
			name: "a hostname of 300 characters", good: one(x(fine)), holds: inForce,
			bad:  one(strings.Replace(x(fine), "[x.example.com]", "["+strings.Repeat("abcdefghi.", 30)+"com]", 1)),
			says: []string{`HTTPRoute default/x … spec.hostnames[0]: must be a DNS name … found "abcdefghi.`},
		},
		{
			name: "a hostname that is an address", good: one(x(fine)), holds: inForce,
			bad:  one(strings.Replace(x(fine), "[x.example.com]", "[192.0.2.1]", 1)),
			says: []string{`HTTPRoute default/x … spec.hostnames[0]: must be a DNS name … found "192.0.2.1"`},
		},
		{
			name: "a path without a slash", good: one(x(fine)), holds: inForce,
			bad:  one(x(`rules: [{matches: [{path: {value: a}}], backendRefs: [{name: base, port: 80}]}]`)),
			says: []string{`HTTPRoute default/x … spec.rules[0].matches[0].path.value: must be a path that begins with /, found "a"`},
		},
		{
			name: "a header that would split the answer", good: one(x(fine)),
			bad:  one(x(`rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: "b\r\nset-cookie: c"}]}}], backendRefs: [{name: base, port: 80}]}]`)),
			says: []string{`HTTPRoute default/x … rules[0]: ResponseHeaderModifier: a: "b\r\nset-cookie: c" contains a control character`},
		},
		{
			name: "a negative weight", good: one(x(fine)), holds: inForce, bad: one(x(`rules: [{backendRefs: [{name: base, port: 80, weight: -1}]}]`)),
			says: []string{`HTTPRoute default/x … spec.rules[0].backendRefs[0].weight: must be a number from 0 to 1000000, found -1`},
		},
		{
			name: "an Ingress to a missing Service",
			bad: one(ingressClass +
				object("Ingress", "x", `{ingressClassName: sluice, rules: [{host: i.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: missing, port: {number: 80}}}}]}}]}`)),
			says: []string{`Ingress default/x … missing`},
		},
		{
			name: "an Ingress with an unknown pathType",
			bad:  one(object("Ingress", "x", `{ingressClassName: sluice, rules: [{host: i.example.com, http: {paths: [{path: /, pathType: Fuzzy, backend: {service: {name: base, port: {number: 80}}}}]}}]}`)),
			says: []string{`Ingress default/x … x.yaml:5: … spec.rules[0].http.paths[0].pathType: must be … found "Fuzzy"`},
		},
	}
}
