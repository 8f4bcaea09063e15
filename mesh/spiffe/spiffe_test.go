package spiffe_test

import (
	"testing"

	"github.com/sluicenet/sluice/mesh/spiffe"
)

func TestParse(t *testing.T) {
	const good = "spiffe://cluster.local/ns/shop/sa/orders"
	id, err := spiffe.Parse(good)
	if err != nil || id != (spiffe.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "orders"}) || id.URL().String() != good {
		t.Errorf("%+v %v", id, err)
	}
	for _, bad := range []string{
		"", "cluster.local/ns/a/sa/b", "https://cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa", "spiffe:///ns/a/sa/b",
		"spiffe://cluster.local/ns/a/sa/b/c", "spiffe://cluster.local/ns//sa/b", "spiffe://cluster.local/ns/a/sa/..",
		"spiffe://cluster.local/ns/a b/sa/c", "spiffe://cluster.local/ns/a/sa/b?x", "spiffe://u@cluster.local/ns/a/sa/b",
	} {
		if id, err := spiffe.Parse(bad); err == nil {
			t.Errorf("%q is %+v", bad, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/orders")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := spiffe.Parse(s)
		if err == nil && (id.String() != s || id.URL().String() != s) {
			t.Errorf("%q became %q and %q", s, id, id.URL())
		}
	})
}
