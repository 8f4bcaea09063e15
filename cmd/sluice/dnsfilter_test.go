package main

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluicenet/sluice/internal/config"
)

// TestDNSFilter reads what hides names, and names the keys of what does not parse.
func TestDNSFilter(t *testing.T) {
	conf := config.Default()
	p := &process{conf: &conf}
	p.conf.DNS.Filter = config.DNSFilter{
		Namespaces: []string{"a"}, NamespaceLabels: "team in (x,y)", Labels: "tier=front,!legacy", EmptyServices: true, NoEndpoints: true,
	}
	o, err := p.dnsOptions()
	if err != nil {
		t.Fatal(err)
	}
	f := o.Filter
	if !slices.Equal(f.Namespaces, []string{"a"}) || !f.EmptyServices || !f.NoEndpoints {
		t.Errorf("%+v", f)
	}
	if !f.NamespaceLabels.Matches(labels.Set{"team": "y"}) || f.NamespaceLabels.Matches(labels.Set{"team": "z"}) {
		t.Errorf("namespaces by %v", f.NamespaceLabels)
	}
	if !f.Labels.Matches(labels.Set{"tier": "front"}) || f.Labels.Matches(labels.Set{"tier": "front", "legacy": ""}) {
		t.Errorf("Services by %v", f.Labels)
	}
	kept := p.serviceLabels()
	if slices.Sort(kept); !slices.Equal(kept, []string{"legacy", "tier"}) {
		t.Errorf("labels %v are kept", kept)
	}

	p.conf.DNS.Filter = config.DNSFilter{NamespaceLabels: "a=b=c", Labels: "in (x"}
	_, err = p.dnsOptions()
	for _, want := range []string{`dns.filter.namespaceLabels: expected a label selector such as team=a, found "a=b=c"`, `dns.filter.labels: expected a label selector such as team=a, found "in (x"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
}
