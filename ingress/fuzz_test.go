package ingress

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/source"
	"github.com/sluicenet/sluice/xds/translate"
)

// FuzzPlan plans any manifests: nothing panics, the order in which objects come
// does not matter, and what is planned translates for Envoy, whatever users
// write. Only a regular expression may be too large for it.
func FuzzPlan(f *testing.F) {
	inputs, err := filepath.Glob("testdata/plan/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, input := range inputs {
		text, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		objects, _ := source.Decode([]byte(text))
		seen := map[model.Key]bool{}
		for _, o := range objects {
			if seen[o.Key] {
				return // which of two wins depends on the order
			}
			seen[o.Key] = true
		}
		p, got := NewPlanner(PlannerOptions{Standalone: true}), newState()
		all := p.Update(everything(storeOf(objects)))
		got.apply(all)
		if diff := cmp.Diff(got.String(), oneByOne(objects, true).String()); diff != "" {
			t.Errorf("planned one by one (-at once +one by one):\n%s", diff)
		}
		_, failures := translate.New().Apply(all.Changes)
		for _, fail := range failures {
			if !strings.Contains(fail.Err.Error(), "regular expression") {
				t.Errorf("%s does not translate: %v", fail.Ref, fail.Err)
			}
		}
	})
}

// FuzzMatch checks that a match that is accepted translates, and that its key
// tells it from others.
func FuzzMatch(f *testing.F) {
	f.Add("Exact", "/a", "GET", "Exact", "X-A", "1")
	f.Add("PathPrefix", "/a/", "", "RegularExpression", "x", "[0-9]+")
	f.Add("RegularExpression", "/(a|b)", "PATCH", "", "q", "\n")
	f.Add("PathPrefix", "//", "get", "Exact", ":authority", "")
	f.Fuzz(func(t *testing.T, pathKind, path, method, kind, name, value string) {
		pk, vk, m := gatewayv1.PathMatchType(pathKind), gatewayv1.HeaderMatchType(kind), gatewayv1.HTTPMethod(method)
		qk := gatewayv1.QueryParamMatchType(kind)
		in := gatewayv1.HTTPRouteMatch{
			Path: &gatewayv1.HTTPPathMatch{Type: &pk, Value: &path}, Method: &m,
			Headers:     []gatewayv1.HTTPHeaderMatch{{Type: &vk, Name: gatewayv1.HTTPHeaderName(name), Value: value}},
			QueryParams: []gatewayv1.HTTPQueryParamMatch{{Type: &qk, Name: gatewayv1.HTTPHeaderName(name), Value: value}},
		}
		parsed, bad := parseMatches([]gatewayv1.HTTPRouteMatch{in})
		if bad != nil {
			return
		}
		again, _ := parseMatches([]gatewayv1.HTTPRouteMatch{in})
		if parsed[0].key != again[0].key {
			t.Errorf("keys %q and %q", parsed[0].key, again[0].key)
		}
		host := &route.Host{Space: "s", Name: "a.example", Rules: []route.Rule{{
			Name: parsed[0].short, Match: parsed[0].match, Respond: &route.Response{Code: 200},
		}}}
		if _, err := translate.Translate(host); err != nil && !strings.Contains(err.Error(), "regular expression") {
			t.Errorf("%+v does not translate: %v", parsed[0].match, err)
		}
	})
}

func FuzzHostname(f *testing.F) {
	for _, s := range []string{"", "*", "*.a", "a.b", "10.0.0.1", "::1", "A.b", "-", "a..b", "*.*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHostname(s)
		if err != nil {
			return
		}
		if again, err := parseHostname(h); h != anyHost && (err != nil || again != h) {
			t.Errorf("%q is %q, which is %q, %v", s, h, again, err)
		}
		last := ""
		for w := range wider(h) {
			if !covers(w, h) || last != "" && specificity(w) >= specificity(last) {
				t.Errorf("%q after %q is no wider name of %q", w, last, h)
			}
			last = w
		}
		if last != anyHost {
			t.Errorf("the widest name of %q is %q", h, last)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"0s", "1h2m3s4ms", "10ms", "1.5s", "-1s", "1", "s", "99999999999h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := gatewayv1.Duration(s)
		if v, err := parseDuration(&d); err == nil && v < 0 {
			t.Errorf("%q is %v", s, v)
		}
	})
}

func FuzzCertificate(f *testing.F) {
	for _, o := range decode(f, "testdata/certs.yaml") {
		s := o.Value.(*model.Secret)
		f.Add(s.Data["tls.crt"], s.Data["tls.key"])
	}
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		s, err := parseCertificate(&model.Secret{
			Meta: model.Meta{Namespace: "default", Name: "x"}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{"tls.crt": cert, "tls.key": key},
		})
		if err == nil && (s.Name != "default/x" || len(s.Cert) == 0 || len(s.Key) == 0) {
			t.Errorf("accepted as %+v", s)
		}
	})
}
